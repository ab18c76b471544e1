"""Preference data from files, lists and `datasets`; what is said of it; splits by prompt."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genarm_hf.training import fingerprint, folds_by_prompt, load_preferences, split_by_prompt
from genarm_hf.training.preferences import HELD_OUT_SPLITS, without_prompts_of

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "margin": 0.5},
    {"prompt": "007", "chosen": "null", "rejected": "NA", "margin": 1.0},
    {"prompt": 'Two\nlines, "quoted"', "chosen": "2024-01-01", "rejected": "é\u2028", "margin": -2.0},
]
CHAT = {
    "prompt": [{"role": "user", "content": "Which colour?"}],
    "chosen": [{"role": "assistant", "content": "Blue."}],
    "rejected": [{"role": "assistant", "content": "Green."}],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pair(prompt: Any = "p", chosen: str = "c", rejected: str = "r", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: Any = ROWS) -> Path:
    """Write rows in the format that the name says."""
    kind = path.name.removesuffix(".gz").rsplit(".")[-1]
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
        return path
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if kind in ("csv", "tsv"):
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
        elif kind == "json":
            json.dump(rows, file, indent=1)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


# --------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet", "A.JSONL"]
)
def test_files(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    for source in (path, str(path)):
        assert load_preferences(source).to_list() == ROWS


def test_lists_and_datasets() -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    for source in (ROWS, tuple(ROWS), dataset, datasets.DatasetDict({"only": dataset})):
        loaded = load_preferences(source)
        assert isinstance(loaded, datasets.Dataset)
        assert loaded.to_list() == ROWS
    assert load_preferences(dataset.add_column("other", [1, 2, 3])).column_names == list(ROWS[0])


def test_messages_from_every_source(tmp_path: Path) -> None:
    more = CHAT | {"prompt": [{"role": "user", "content": "Which other?"}]}
    sources = [
        [CHAT, more],
        datasets.Dataset.from_list([CHAT, more]),
        *(write(tmp_path / name, [CHAT, more]) for name in ("a.jsonl", "a.json", "a.parquet")),
    ]
    for source in sources:
        assert load_preferences(source).to_list() == [CHAT, more]


def test_directories(tmp_path: Path) -> None:
    saved, files = tmp_path / "saved", tmp_path / "files"
    datasets.Dataset.from_list(ROWS).save_to_disk(saved)
    assert load_preferences(saved).to_list() == ROWS
    files.mkdir()
    write(files / "train.csv", [pair("a", "null", "NA")])
    write(files / "test.csv", [pair("b", "null", "x")])
    assert load_preferences(files).to_list() == [pair("a", "null", "NA")]
    assert load_preferences(files, split="test").to_list() == [pair("b", "null", "x")]


def test_splits() -> None:
    one, other = datasets.Dataset.from_list([pair("a")]), datasets.Dataset.from_list([pair("b")])
    assert load_preferences({"train": one, "test": other})[0]["prompt"] == "a"
    assert load_preferences({"train": one, "test": other}, split="test")[0]["prompt"] == "b"
    with pytest.raises(ValueError, match=r"`split` must be one of \['first', 'second'\], got None"):
        load_preferences({"first": one, "second": other})
    with pytest.raises(ValueError, match="`split` must be one of"):
        load_preferences({"train": one, "test": other}, split="eval")
    with pytest.raises(ValueError, match="sources with several splits"):
        load_preferences(one, split="train")


def test_splits_that_are_preferred(caplog: pytest.LogCaptureFixture) -> None:
    splits = {name: datasets.Dataset.from_list([pair(name)]) for name in ("train", "validation", "eval")}

    def load(*names: str, **options: Any) -> str:
        caplog.clear()
        return load_preferences({name: splits[name] for name in names}, prefer=HELD_OUT_SPLITS, **options)[0]["prompt"]

    assert load("train", "eval", "validation") == "validation"
    assert "read the split 'validation', of ['eval', 'train', 'validation']" in caplog.text
    assert load("eval", "train") == "eval"
    assert load("train") == "train" and not caplog.text
    assert load("train", "eval", split="train") == "train" and not caplog.text


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("owner/name", {"path": "owner/name"}),
        ("Anthropic/hh-rlhf/harmless-base", {"path": "Anthropic/hh-rlhf", "data_dir": "harmless-base"}),
    ],
)
def test_hub(source: str, asked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of `datasets`; a file here stands in for the hub's."""
    path, calls = str(write(tmp_path / "a.csv", [pair("a", "null", "NA")])), []
    load, builder = datasets.load_dataset, datasets.load_dataset_builder

    def load_dataset(path_: str, keep_default_na: bool, na_filter: bool, **options: Any) -> Any:
        calls.append({"path": path_, **options})
        return load("csv", data_files=path, keep_default_na=keep_default_na, na_filter=na_filter)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder("csv", data_files=path))
    loaded = load_preferences(source, name="default", revision="main", token="secret")
    assert calls == [asked | {"name": "default", "revision": "main", "token": "secret"}]
    assert loaded.to_list() == [pair("a", "null", "NA")]


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        load_preferences(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        load_preferences("none.csv")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="must be a json, jsonl, csv, tsv or parquet file"):
        load_preferences(tmp_path / "a.txt")
    with pytest.raises(TypeError, match="got int"):
        load_preferences(3)
    with pytest.raises(TypeError, match=r"got IterableDataset.*from_generator"):
        load_preferences(datasets.Dataset.from_list(ROWS).to_iterable_dataset())
    (tmp_path / "empty.jsonl").write_text("\n")
    for empty in ([], tmp_path / "empty.jsonl"):
        with pytest.raises(ValueError, match="has no rows"):
            load_preferences(empty)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [pair("a")])
    assert load_preferences(path)[0]["prompt"] == "a"
    write(path, [pair("b")])
    os.utime(path, ns=(1, 1))
    assert load_preferences(path)[0]["prompt"] == "b"


def test_files_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, blank lines, and a response beyond the csv module's limit."""
    long = "x" * 200_000
    limit = csv.field_size_limit()
    path = tmp_path / "a.csv"
    path.write_bytes(f"\ufeffprompt,chosen,rejected\r\n1,{long},2\r\n\r\n".encode())
    assert load_preferences(path).to_list() == [pair("1", long, "2")]
    assert csv.field_size_limit() == limit


def test_the_objective_chooses() -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    assert load_preferences([row], "helpful").to_list() == [pair("p", "a", "b")]
    assert load_preferences(datasets.Dataset.from_list([row]), "safer").to_list() == [pair("p", "b", "a")]
    with pytest.raises(ValueError, match="'better' or 'safer'"):
        load_preferences([row])


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"genarm-hf\[train\]"):
        load_preferences(ROWS)


# --------------------------------------------------------------------------- bad rows, ties, duplicates

BAD = [pair("a"), pair("b", chosen=" "), pair("c", rejected=None), pair("d", rejected=""), pair("e")]


def sources(rows: list[Any], folder: Path) -> list[Any]:
    return [rows, datasets.Dataset.from_list(rows), write(folder / "a.jsonl", rows)]


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    for source in sources(BAD, tmp_path):
        with pytest.raises(ValueError, match=r"Row 1 of .* is bad, empty response: 'chosen'.*`skip_bad_rows=True`"):
            load_preferences(source)


def test_bad_rows_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for source in sources(BAD, tmp_path):
        caplog.clear()
        assert load_preferences(source, skip_bad_rows=True).to_list() == [BAD[0], BAD[4]]
        assert "Skipped 3 bad rows of 5 of" in caplog.text
        assert "2 with empty response, 1 with missing column; the first is row 1." in caplog.text
    caplog.clear()
    load_preferences(source, skip_bad_rows=True)  # from the cache
    assert "Skipped 3 bad rows of 5 of" in caplog.text


def test_rows_of_other_types(tmp_path: Path) -> None:
    rows = [pair("a"), pair(3), ["p", "c", "r"], pair("b", chosen=["x"]), pair("c")]
    for source in (rows, write(tmp_path / "a.jsonl", rows)):
        assert load_preferences(source, skip_bad_rows=True).to_list() == [rows[0], rows[4]]
        with pytest.raises(ValueError, match=r"Row 1 of .*wrong type: column 'prompt' must be a string, got 3 \(int\)"):
            load_preferences(source)


def test_lines_that_cannot_be_read(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(pair("a")) + "\n{\n" + json.dumps(pair("b")) + "\n")
    with pytest.raises(ValueError, match=r"Row 1 of .* is bad, not json"):
        load_preferences(lines)
    assert load_preferences(lines, skip_bad_rows=True)["prompt"][:] == ["a", "b"]
    lines.write_text("{'prompt': 'a'}\n")
    with pytest.raises(ValueError, match=r"has no rows with columns: row 0 is bad, not json: "):
        load_preferences(lines)
    table = tmp_path / "a.csv"
    table.write_text("prompt,chosen,rejected\na,c,r\nb,c,r,r,r\nc,c\nd,c,r\n")
    with pytest.raises(ValueError, match=r"Row 1 of .* is bad, too many fields: 2 more than the header"):
        load_preferences(table)
    assert load_preferences(table, skip_bad_rows=True)["prompt"][:] == ["a", "d"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    contents = {
        "cut.json": b'[{"prompt": "p", "chosen": "c", "rejected": "r"},',
        "latin.csv": "prompt,chosen,rejected\nä,ö,ü\n".encode("latin-1"),
        "plain.jsonl.gz": json.dumps(pair()).encode(),
        "short.jsonl.gz": gzip.compress(json.dumps(pair()).encode() * 1000)[:-20],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"`source` '.*{name}' cannot be read"):
            load_preferences(tmp_path / name, skip_bad_rows=True)


def test_no_row_is_left(tmp_path: Path) -> None:
    for source in sources([pair(chosen=" ")], tmp_path):
        with pytest.raises(ValueError, match=r"No pair of .* is left: 1 with empty response"):
            load_preferences(source, skip_bad_rows=True)


def test_a_first_batch_without_a_good_row() -> None:
    rows = [pair(chosen=" ")] * 1000 + [pair()]
    assert load_preferences(datasets.Dataset.from_list(rows), skip_bad_rows=True).to_list() == [pair()]


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}, indent=1))
        with pytest.raises(ValueError, match=r"one json object over several lines\. It must be a list"):
            load_preferences(tmp_path / name, skip_bad_rows=True)


def test_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is a folder without data: it must hold json"):
        load_preferences(tmp_path)


def test_repeated_prompts_are_taken_off_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [pair("Q?", "Q? a", "Q? b"), pair("R?", "R? a", "R? b"), pair("S?", " a", " b"), pair("", "a", "b")]
    rows.append(pair("T?", "T? a", "T? b"))
    for source in sources(rows, tmp_path):
        caplog.clear()
        loaded = load_preferences(source)
        assert loaded.column_names == ["prompt", "chosen", "rejected"]
        assert loaded["chosen"][:] == [" a", " a", " a", "a", " a"]
        assert "took the prompt off the responses of 3 pairs, which began with it. 5 pairs left." in caplog.text


def test_prompts_of_others_are_left_out() -> None:
    rows = [pair("a"), pair("b", "x"), pair("c"), pair("b")]
    for dataset in (rows, datasets.Dataset.from_list(rows)):
        assert list(without_prompts_of(dataset, [pair("b"), pair("d")])) == [rows[0], rows[2]]
        assert without_prompts_of(dataset, [pair("d")]) is dataset
        assert len(without_prompts_of(dataset, rows)) == 0
    assert len(without_prompts_of([CHAT], [CHAT])) == 0


def test_pairs_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    scores = {"score_chosen": 2.0, "score_rejected": 1.0}
    rows = [
        pair("a", **scores),
        pair("a", **scores),  # duplicate
        pair("a", "r", "c", **scores),  # contradicts both
        pair("b", "c", "c", **scores),  # tied
        pair("c", **scores | {"score_chosen": 1.0}),  # tied
        pair("d", **scores),
    ]
    assert load_preferences(rows).to_list() == [rows[0], rows[1], rows[2], rows[5]]
    assert (
        "Of 'source': dropped 2 tied pairs (1 with identical responses, 1 with equal scores); kept 1 duplicate pair; "
        "kept 1 pair given in both orders. 4 pairs left."
    ) in caplog.text
    caplog.clear()
    load_preferences(ROWS)
    assert not caplog.text


def test_messages_are_compared_by_content(caplog: pytest.LogCaptureFixture) -> None:
    turned = CHAT | {"chosen": CHAT["rejected"], "rejected": CHAT["chosen"]}
    tied = CHAT | {"rejected": CHAT["chosen"]}
    assert len(load_preferences([CHAT, CHAT, turned, tied])) == 3
    assert "dropped 1 tied pair (1 with identical responses); kept 1 duplicate pair; kept 1 pair given" in caplog.text


# --------------------------------------------------------------------------- by prompt

PROMPTS = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40).filter(lambda prompts: len(set(prompts)) > 1)


@given(prompts=PROMPTS, share=st.floats(0.05, 0.95), seed=st.integers(0, 5), messages=st.booleans())
def test_splits_share_no_prompt(prompts: list[str], share: float, seed: int, messages: bool) -> None:
    rows = [{"prompt": [{"role": "user", "content": p}] if messages else p, "row": i} for i, p in enumerate(prompts)]
    train, held_out = split_by_prompt(rows, share, seed)
    assert train and held_out
    assert not {str(row["prompt"]) for row in train} & {str(row["prompt"]) for row in held_out}
    assert sorted(row["row"] for row in [*train, *held_out]) == list(range(len(rows)))
    assert [row["row"] for row in train] == sorted(row["row"] for row in train)
    assert split_by_prompt(rows, share, seed) == (train, held_out)


@given(prompts=PROMPTS, folds=st.integers(2, 5))
def test_folds_hold_every_row_out_once(prompts: list[str], folds: int) -> None:
    rows = [{"prompt": prompt, "row": i} for i, prompt in enumerate(prompts)]
    if folds > len(set(prompts)):
        with pytest.raises(ValueError, match="between 2 and the number of prompts"):
            folds_by_prompt(rows, folds)
        return
    parts = list(folds_by_prompt(rows, folds))
    assert len(parts) == folds
    assert sorted(row["row"] for _, held_out in parts for row in held_out) == list(range(len(rows)))
    for train, held_out in parts:
        assert len(train) + len(held_out) == len(rows) and held_out
        assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}


def test_split_sizes() -> None:
    rows = [pair(str(i)) for i in range(200)]
    assert len(split_by_prompt(rows)[1]) == 20
    assert len(split_by_prompt(rows, 0.25)[1]) == 50
    assert len(split_by_prompt(rows, 7)[1]) == 7
    assert split_by_prompt(rows, 7, seed=1)[1] != split_by_prompt(rows, 7)[1]
    heavy = [pair("heavy")] * 90 + [pair("light")] * 10
    assert len(split_by_prompt(heavy)[1]) in (10, 90)  # the order of prompts decides, their rows stay together


def test_datasets_are_split_as_lists_are() -> None:
    rows = [pair(str(i % 30)) for i in range(100)]
    for part, expected in zip(split_by_prompt(datasets.Dataset.from_list(rows)), split_by_prompt(rows), strict=True):
        assert isinstance(part, datasets.Dataset)
        assert part.to_list() == expected


def test_splits_are_the_same_in_every_process() -> None:
    rows = [pair(str(i)) for i in range(20)]
    code = (
        "from genarm_hf.training import split_by_prompt\n"
        "rows = [{'prompt': str(i)} for i in range(20)]\n"
        "print(*(row['prompt'] for row in split_by_prompt(rows, 5)[1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [row["prompt"] for row in split_by_prompt(rows, 5)[1]]


@pytest.mark.parametrize("size", [0, 1.0, 1.5, -0.1, 3, True])
def test_split_sizes_out_of_range(size: Any) -> None:
    with pytest.raises(ValueError, match="`eval_size` must be a share between 0 and 1 or a number of rows below 3"):
        split_by_prompt([pair("a"), pair("b"), pair("c")], size)


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="All 2 rows have the same prompt"):
        split_by_prompt([pair(), pair()], 0.5)


# --------------------------------------------------------------------------- fingerprints


def test_fingerprints_are_of_the_content(tmp_path: Path) -> None:
    sources = [ROWS, datasets.Dataset.from_list(ROWS), write(tmp_path / "a.csv"), write(tmp_path / "a.jsonl.gz")]
    prints = {fingerprint(load_preferences(source)) for source in sources}
    assert prints == {fingerprint(ROWS)}
    assert fingerprint([row | {"other": 1} for row in ROWS]) == fingerprint(ROWS)
    changed = [
        ROWS[::-1],
        ROWS[:2],
        [ROWS[0] | {"margin": 0.25}, *ROWS[1:]],
        [ROWS[0] | {"chosen": " Blue."}, *ROWS[1:]],
    ]
    assert len({fingerprint(rows) for rows in changed} | prints) == 5
    weighted = [row | {"weight": 1} for row in ROWS]
    assert fingerprint(weighted) == fingerprint([row | {"weight": 1.0} for row in ROWS]) != fingerprint(ROWS)


def test_fingerprints_of_messages_and_ids() -> None:
    loaded = load_preferences(datasets.Dataset.from_list([CHAT]))
    assert fingerprint(loaded) == fingerprint([CHAT])
    ids = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4], "length": 4}
    assert fingerprint([ids]) == fingerprint(datasets.Dataset.from_list([ids]))
    assert fingerprint([ids]) != fingerprint([ids | {"chosen_ids": [5]}])


# --------------------------------------------------------------------------- real data


@pytest.mark.parametrize("name", ["harmless-base", "helpful-base"])
def test_hh_rlhf(name: str, real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = real_data / "data" / "hh" / f"{name}.test.jsonl.gz"
    pairs = load_preferences(path)
    assert len(pairs) > 2200
    assert all(prompt.endswith("\n\nAssistant:") for prompt in pairs["prompt"])
    # as Anthropic publishes it: whole dialogues in two columns
    whole = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in pairs]
    again = load_preferences(whole)
    assert again.to_list() == [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]


def test_files_that_are_not_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"pairs.parquet' cannot be read: .* It must be parquet"):
        load_preferences(str(tmp_path / "pairs.parquet"))


def test_splits_that_are_no_data() -> None:
    with pytest.raises(TypeError, match="`source` must be a hub id, a path"):
        load_preferences({"train": 1})
