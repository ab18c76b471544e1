"""Rows from files and data sets; one that cannot be read says why, and stops no other."""

import gzip
import json

import pytest

from genarm_hf.evaluation import read_prompts, run

CHAT = [{"role": "user", "content": "Hi"}]


def written(tmp_path, *lines, name="prompts.jsonl"):
    path = tmp_path / name
    text = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines) + b"\n"
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.jsonl.gz"])
def test_lines_become_rows(tmp_path, name):
    path = written(tmp_path, {"prompt": "One", "topic": "x"}, b"", {"prompt": CHAT, "id": None}, name=name)
    assert read_prompts(path) == [{"id": 0, "prompt": "One", "topic": "x"}, {"id": 1, "prompt": CHAT}]


def test_bad_lines_say_what_is_wrong_with_them(tmp_path):
    bad = {
        2: (b'{"prompt": "torn', "line 2: it is not JSON in UTF-8"),
        3: (b'{"prompt": "\xff"}', "line 3: it is not JSON in UTF-8"),
        4: (["a", "list"], "line 4: it must be an object with columns, and is ['a', 'list']"),
        5: (
            {"text": "Hi", "topic": "x"},
            "line 5: there is no prompt in the column 'prompt'; the columns are text, topic",
        ),
        6: ({"prompt": None}, "line 6: there is no prompt in the column 'prompt'"),
        7: ({"prompt": " \n"}, "line 7: the prompt in the column 'prompt' is empty"),
        8: ({"prompt": 5}, "line 8: wrong type: column 'prompt' must be a list of messages, got 5"),
        9: ({"prompt": [{"role": "user"}]}, "line 9: wrong type: column 'prompt' must hold messages with role and"),
        10: (b'{"prompt": "Hi", "score": NaN}', "line 10: it cannot be written as JSON"),
        11: ({"prompt": "Hi", "id": 1.5}, "line 11: `id` must be a string or an integer, got 1.5"),
        12: (b"[" * 100_000, "line 12: it is not JSON in UTF-8"),
    }
    rows = read_prompts(written(tmp_path, {"prompt": "Good"}, *(line for line, _ in bad.values())))
    assert rows[0] == {"id": 0, "prompt": "Good"} and len(rows) == 12
    for row, (_, said) in zip(rows[1:], bad.values(), strict=True):
        assert row["error"].startswith(said), row
    assert rows[4]["topic"] == "x" and rows[4]["prompt"] is None
    assert rows[10]["input_id"] == 1.5
    lines = run(lambda prompts, seed: prompts, rows, tmp_path / "out.jsonl", name="echo")
    assert [line["reply"] for line in lines] == ["Good", *[None] * 11]


def test_ids(tmp_path):
    rows = read_prompts(written(tmp_path, {"prompt": "a", "id": 2}, b"{", {"prompt": "b"}, {"prompt": "c", "id": "x"}))
    assert [row["id"] for row in rows] == [2, "line 2", "line 3", "x"]
    with pytest.raises(ValueError, match="The id 7 is in line 1 and in line 3, and replies could not be told apart"):
        read_prompts(written(tmp_path, {"prompt": "a", "id": 7}, {"prompt": "b"}, {"prompt": "c", "id": 7}))


def test_columns_keep_their_names_where_lines_have_no_such_field(tmp_path):
    row = {"question": "Hi", "prompt": "p", "system": "s", "input_system": "i", "strength": 2, "alpha": 1, "error": ""}
    (found,) = read_prompts(written(tmp_path, row), prompt_column="question", alpha_column="strength")
    assert found == {
        "id": 0,
        "prompt": "Hi",
        "input_prompt": "p",
        "input_system_": "s",
        "input_system": "i",
        "alpha": 2,
        "input_alpha": 1,
        "input_error": "",
    }


def test_csv_and_json_need_no_further_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    path = written(tmp_path, b"\xef\xbb\xbfid,prompt,alpha", b"a,Hello,0.5", b"b,,1", b"c,x,1,2", name="prompts.csv")
    first, second, third = read_prompts(path)
    assert first == {"id": "a", "prompt": "Hello", "alpha": "0.5"}
    assert second["error"] == "row 2: the prompt in the column 'prompt' is empty"
    assert third["error"] == "row 3: too many fields: 1 more than the header"
    path = written(tmp_path, [{"prompt": "One"}, {"prompt": "Two"}], name="prompts.json")
    assert [row["prompt"] for row in read_prompts(path)] == ["One", "Two"]
    with pytest.raises(ImportError, match=r"pip install 'genarm-hf\[train\]'"):
        read_prompts("owner/name")


def test_data_sets(tmp_path):
    import datetime

    datasets = pytest.importorskip("datasets")
    rows = {"prompt": ["One", None], "day": [datetime.date(2024, 10, 10)] * 2, "picture": [None, b"\x89PNG"]}
    splits = {name: datasets.Dataset.from_dict(rows) for name in ("test", "other")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    first, second = read_prompts(tmp_path / "saved", split="test")
    assert first == {"id": 0, "prompt": "One", "day": "2024-10-10", "picture": None}
    assert second["error"] == "row 2: it cannot be written as JSON (a column holds bytes)"
    with pytest.raises(ValueError, match=r"`split` must be one of \['other', 'test'\], got None"):
        read_prompts(tmp_path / "saved")


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ([], {}, "has no prompt that can be read: there are no rows"),
        ([{"question": "Hi"}], {}, "there is no prompt in the column 'prompt'; the columns are question"),
        ([{"prompt": "Hi"}], {"alpha_column": "strength"}, "has the column 'strength'"),
        ([{"prompt": "Hi"}], {"split": "test"}, "`split` is for sources with several splits"),
    ],
)
def test_sources_without_prompts_are_refused(tmp_path, lines, options, said):
    with pytest.raises(ValueError, match=said):
        read_prompts(written(tmp_path, *lines), **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file or directory"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "prompts.txt").write_text("Hi\n")
    with pytest.raises(ValueError, match="must be a json, jsonl, csv, tsv or parquet file"):
        read_prompts(tmp_path / "prompts.txt")
