"""Tokenising, truncating and padding of preference pairs, and what is said of bad rows."""

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset, IterableDataset
from transformers import AutoTokenizer

from genarm_hf.training.data import ID_COLUMNS, TRAINING_COLUMNS, PairTokenizer, tokenize_pairs

from .toys import toy_pairs, word_tokenizer

ROW = {"prompt": "w3 w4 w5", "chosen": "w7 w8", "rejected": "w9"}
IDS = {"prompt_ids": [1, 3, 4, 5], "chosen_ids": [7, 8, 2], "rejected_ids": [9, 2], "length": 9}
CHAT = {
    "prompt": [{"role": "user", "content": "w3 w4 w5"}],
    "chosen": [{"role": "assistant", "content": "w7 w8"}],
    "rejected": [{"role": "assistant", "content": "w9"}],
}
_ROLE = "{{ {'system': 'w30', 'user': 'w31', 'assistant': 'w32'}[m['role']] }}"
# as <|im_start|>user\n ... <|im_end|>\n, with the EOS at the end of every message and a newline behind it
CHATML = (
    "{% for m in messages %}w40 " + _ROLE + "\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}w40 w32\n{% endif %}"
)
# as Llama 3: BOS is part of the template
LLAMA = (
    "{{ bos_token }}{% for m in messages %}w41 " + _ROLE + " w42 {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}w41 w32 w42 {% endif %}"
)
# as Gemma: BOS is part of the template, and what ends a message is not the EOS
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "w43 " + _ROLE + " {{ m['content'] }} w44\n{% endfor %}"
    "{% if add_generation_prompt %}w43 w32 {% endif %}"
)


def encode(row: Any = ROW, tokenizer: Any = None, index: int = 0, **options: Any) -> dict[str, Any]:
    return PairTokenizer(tokenizer or word_tokenizer(), **options)([row], [index])[0]


def test_bos_in_front_and_eos_at_the_end() -> None:
    assert encode() == IDS


def test_one_bos_where_the_text_spells_it_out() -> None:
    assert encode(ROW | {"prompt": "<s> w3"})["prompt_ids"] == [1, 3]


def test_one_eos_where_the_text_spells_it_out() -> None:
    assert encode(ROW | {"chosen": "w7 </s>"})["chosen_ids"] == [7, 2]


def test_a_tokenizer_that_closes_texts_does_not_close_the_prompt() -> None:
    assert encode(tokenizer=word_tokenizer(eos=True)) == encode()


def test_template() -> None:
    assert encode(prompt_template="w10 {prompt} w11")["prompt_ids"] == [1, 10, 3, 4, 5, 11]


def test_truncation_keeps_bos_and_the_end_of_the_prompt() -> None:
    assert encode(max_length=6) == IDS | {"prompt_ids": [1, 4, 5], "length": 8}
    assert encode(max_length=5)["prompt_ids"] == [1, 5]
    assert encode(max_length=4)["prompt_ids"] == [5]
    assert encode(max_length=6, tokenizer=word_tokenizer(bos=False))["prompt_ids"] == [3, 4, 5]
    assert encode(max_length=5, tokenizer=word_tokenizer(bos=False))["prompt_ids"] == [4, 5]


def test_too_long_a_prompt_may_drop_the_pair() -> None:
    drop = {"overlong_prompts": "drop"}
    assert encode(max_length=7, **drop) == IDS
    assert PairTokenizer(word_tokenizer(), max_length=6, **drop)([ROW], [0]) == []
    with pytest.raises(ValueError, match="leaves no room for a prompt"):  # that is for `drop_overlong` to say
        encode(max_length=3, **drop)


def test_too_long_a_response_is_an_error_or_dropped() -> None:
    with pytest.raises(ValueError, match=r"Row 4 of `train_dataset` has a response of 3 tokens.*max_length=3"):
        encode(index=4, max_length=3)
    assert PairTokenizer(word_tokenizer(), max_length=3, drop_overlong=True)([ROW], [0]) == []


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"prompt": "w3", "chosen": "w4"}, ValueError, "Row 7 of `eval_dataset` has no column 'rejected', only"),
        (ROW | {"chosen": ""}, ValueError, "Row 7 of `eval_dataset`: column 'chosen' is an empty response"),
        (ROW | {"rejected": "  \n"}, ValueError, "column 'rejected' is an empty response"),
        (ROW | {"prompt": 3}, TypeError, "Row 7 of `eval_dataset`: column 'prompt' must be a string, got 3"),
        (ROW | {"chosen": None}, TypeError, "column 'chosen' must be a string, got None"),
        (ROW | {"prompt": CHAT["prompt"]}, TypeError, "Row 7 of `eval_dataset`: .*'chosen' must be a list of messages"),
        (ROW | {"chosen": CHAT["chosen"]}, TypeError, "column 'chosen' must be a string.*all three columns"),
        (CHAT, ValueError, "Row 7 of `eval_dataset` holds messages, but the tokenizer has no chat template"),
        (
            CHAT | {"chosen": [{"role": "assistant", "content": " "}]},
            ValueError,
            "column 'chosen' is an empty response",
        ),
        (ROW | {"margin": "much"}, TypeError, "Row 7 of `eval_dataset`: column 'margin' must be a number"),
        (ROW | {"margin": True}, TypeError, "column 'margin' must be a number, got True"),
        (ROW | {"margin": float("nan")}, ValueError, "column 'margin' must be a finite number, got nan"),
        (ROW | {"weight": -1}, ValueError, "column 'weight' must be a finite number of at least 0, got -1"),
        (ROW | {"score_chosen": 1.0}, ValueError, "one of the columns .*'score_chosen', 'score_rejected'"),
        (["w3", "w4", "w5"], TypeError, "Row 7 of `eval_dataset` must be a mapping"),
    ],
)
def test_bad_rows_are_named(row: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        encode(row, index=7, name="eval_dataset")


def test_an_empty_prompt_needs_a_bos() -> None:
    assert encode(ROW | {"prompt": ""})["prompt_ids"] == [1]
    with pytest.raises(ValueError, match="Row 0 of `train_dataset` has a prompt without tokens"):
        encode(ROW | {"prompt": ""}, tokenizer=word_tokenizer(bos=False))


class _Rows(Dataset):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


class _Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([ROW])


def test_every_kind_of_dataset_gives_the_same_rows(tokenizer: Any) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    numbers = {"weight": 0.5, "score_chosen": 4.5, "score_rejected": 2.0}
    # more than a batch of the tokenizer
    rows = [row | {"margin": float(i)} | numbers for i, row in enumerate(toy_pairs(1003))]
    encoder = PairTokenizer(tokenizer)
    expected = [encode(row, tokenizer) for row in rows]
    assert tokenize_pairs(rows, encoder) == expected
    assert tokenize_pairs(_Rows(rows), encoder) == expected
    arrow = tokenize_pairs(datasets.Dataset.from_list([row | {"other": 1} for row in rows]), encoder)
    assert set(arrow.column_names) == set(TRAINING_COLUMNS)
    assert arrow[0]["score_difference"] == 2.5
    assert arrow.to_list() == expected


def test_tokenised_rows_stay_as_they_are(tokenizer: Any) -> None:
    rows = [encode(row, tokenizer) for row in toy_pairs(3)]
    assert tokenize_pairs(rows, PairTokenizer(None)) is rows


def test_row_numbers_of_an_arrow_dataset(tokenizer: Any) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = toy_pairs(1200)
    rows[1100]["chosen"] = ""
    with pytest.raises(ValueError, match="Row 1100 of `train_dataset`"):
        tokenize_pairs(datasets.Dataset.from_list(rows), PairTokenizer(tokenizer))


def test_all_rows_have_the_same_numbers(tokenizer: Any) -> None:
    rows = [ROW | {"margin": 1.0}, ROW]
    with pytest.raises(ValueError, match=r"Row 1 of `train_dataset` has no number columns.*first row has \['margin'\]"):
        tokenize_pairs(rows, PairTokenizer(tokenizer))
    with pytest.raises(ValueError, match="Row 1 of `train_dataset`"):
        tokenize_pairs(rows[::-1], PairTokenizer(tokenizer))
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    with pytest.raises(TypeError, match="Row 1 of `train_dataset`: column 'margin' must be a number, got None"):
        tokenize_pairs(datasets.Dataset.from_list(rows), PairTokenizer(tokenizer))


@pytest.mark.parametrize("kind", ["list", "arrow", "processes"])
def test_truncated_and_dropped_pairs_are_counted(kind: str, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows: Any = [ROW, ROW | {"chosen": "w3 w4 w5 w6 w7 w8"}, ROW, ROW | {"prompt": "w3"}]
    options = {}
    if kind != "list":
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        rows = datasets.Dataset.from_list(rows)
        options = {"num_proc": 2} if kind == "processes" else {}
    encoder = PairTokenizer(tokenizer, max_length=6, drop_overlong=True)
    tokenized = tokenize_pairs(rows, encoder, **options)
    assert [row["length"] for row in tokenized] == [8, 8, 7]
    assert set(tokenized[0]) == {*ID_COLUMNS, "length"}
    told = "Truncated the prompts of 2 of 4 pairs of `train_dataset`, dropped 1: longer than 6 tokens."
    assert told in caplog.text
    caplog.clear()
    encoder = PairTokenizer(tokenizer, max_length=6, drop_overlong=True, overlong_prompts="drop")
    assert len(tokenize_pairs(rows, encoder, **options)) == 1
    assert "Dropped 3 of 4 pairs of `train_dataset`: longer than 6 tokens." in caplog.text


def test_nothing_is_said_where_all_pairs_fit(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenize_pairs([ROW], PairTokenizer(tokenizer, max_length=7))
    assert not caplog.text


def test_a_batch_without_a_fitting_pair(tokenizer: Any) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([ROW] * 1000 + [ROW | {"prompt": "w3"}])  # the first batch is dropped as a whole
    encoder = PairTokenizer(tokenizer, max_length=6, overlong_prompts="drop")
    assert tokenize_pairs(rows, encoder).to_list() == [IDS | {"prompt_ids": [1, 3], "length": 7}]


# --------------------------------------------------------------------------- messages


def chat_tokenizer(template: str, bos: bool = False) -> Any:
    tokenizer = word_tokenizer(bos)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("template", "prompt", "chosen", "rejected"),
    [
        (CHATML, [40, 31, 3, 4, 5, 2, 40, 32], [7, 8, 2], [9, 2]),
        (LLAMA, [1, 41, 31, 42, 3, 4, 5, 2, 41, 32, 42], [7, 8, 2], [9, 2]),
        (GEMMA, [1, 43, 31, 3, 4, 5, 44, 43, 32], [7, 8, 44, 2], [9, 44, 2]),
    ],
    ids=["chatml", "llama", "gemma"],
)
def test_chat_templates(template: str, prompt: list[int], chosen: list[int], rejected: list[int], bos: bool) -> None:
    tokenizer = chat_tokenizer(template, bos)
    expected = dict(zip(ID_COLUMNS, (prompt, chosen, rejected), strict=True))
    assert encode(CHAT, tokenizer) == expected | {"length": len(prompt) + len(chosen) + len(rejected)}
    # generate() is given the same prompt
    ids = tokenizer.apply_chat_template(CHAT["prompt"], add_generation_prompt=True, return_dict=False)
    assert ids == prompt


def test_several_turns_and_a_system_prompt() -> None:
    tokenizer = chat_tokenizer(CHATML)
    asked = [{"role": "system", "content": "w10"}, *CHAT["prompt"], *CHAT["chosen"], {"role": "user", "content": "w11"}]
    row = encode(CHAT | {"prompt": asked}, tokenizer)
    assert row["prompt_ids"] == [40, 30, 10, 2, 40, 31, 3, 4, 5, 2, 40, 32, 7, 8, 2, 40, 31, 11, 2, 40, 32]
    assert row["chosen_ids"] == [7, 8, 2]
    answer = [*CHAT["chosen"], {"role": "user", "content": "w11"}, {"role": "assistant", "content": "w12"}]
    assert encode(CHAT | {"chosen": answer}, tokenizer)["chosen_ids"] == [7, 8, 2, 40, 31, 11, 2, 40, 32, 12, 2]


def test_a_response_is_read_as_it_stands_behind_its_prompt(real_data: Path) -> None:
    """A SentencePiece tokenizer puts a space in front of a text by itself, which the template does not have there."""
    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / "stories260K")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }} A:"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    row = encode(
        {
            "prompt": [{"role": "user", "content": "Once upon"}],
            "chosen": [{"role": "assistant", "content": "a time"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        },
        tokenizer,
    )
    whole = [{"role": "user", "content": "Once upon"}, {"role": "assistant", "content": "a time"}]
    assert row["prompt_ids"] + row["chosen_ids"] == tokenizer.apply_chat_template(whole, return_dict=False)


def test_messages_in_every_kind_of_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    encoder = PairTokenizer(chat_tokenizer(LLAMA), max_length=12)
    expected = [encode(CHAT, encoder.tokenizer, max_length=12)] * 2
    assert expected[0]["prompt_ids"] == [1, 42, 3, 4, 5, 2, 41, 32, 42]  # truncated, but for BOS
    assert tokenize_pairs([CHAT, CHAT], encoder) == expected
    assert tokenize_pairs(datasets.Dataset.from_list([CHAT, CHAT]), encoder).to_list() == expected


def test_templates_that_do_not_fit() -> None:
    system = CHAT | {"prompt": [{"role": "system", "content": "w10"}, *CHAT["prompt"]]}
    with pytest.raises(ValueError, match=r"Row 5 of `train_dataset`: .*chat template refuses.*no system role"):
        encode(system, chat_tokenizer(GEMMA), index=5)
    thinking = CHATML.replace("w40 w32\n{% endif", "w40 w32\nw20 {% endif")  # as <think> in the opening of an answer
    with pytest.raises(
        ValueError, match=r"Row 5 of `train_dataset`: the chat template makes .*w20.* of the prompt's end"
    ):
        encode(CHAT, chat_tokenizer(thinking), index=5)
    with pytest.raises(ValueError, match="leave out `prompt_template`"):
        encode(CHAT, chat_tokenizer(CHATML), prompt_template="w3 {prompt}")


# --------------------------------------------------------------------------- datasets


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (_Stream(), TypeError, "with a length, got _Stream"),
        (iter([ROW]), TypeError, "with a length"),
        ({"train": [ROW]}, TypeError, r"got dict.*\[split\]"),
        ("data.json", TypeError, "got str"),
        ([], ValueError, "`train_dataset` is empty"),
    ],
)
def test_bad_datasets(dataset: Any, error: type, message: str, tokenizer: Any) -> None:
    with pytest.raises(error, match=message):
        tokenize_pairs(dataset, PairTokenizer(tokenizer))


def test_no_pair_left(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="all 1 were dropped"):
        tokenize_pairs([ROW], PairTokenizer(tokenizer, max_length=2, drop_overlong=True))
