"""Tokenising, truncating and padding of preference pairs, and what is said of bad rows."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.training.data import PairCollator, PairTokenizer, tokenize_pairs
from genarm_hf.training.losses import response_logprobs

from ..conftest import tiny
from .toys import toy_pairs, word_tokenizer

ROW = {"prompt": "w3 w4 w5", "chosen": "w7 w8", "rejected": "w9"}


def encode(row: Any = ROW, tokenizer: Any = None, index: int = 0, **options: Any) -> dict[str, Any]:
    return PairTokenizer(tokenizer or word_tokenizer(), **options)([row], [index])[0]


def test_bos_in_front_and_eos_at_the_end() -> None:
    assert encode() == {"prompt_ids": [1, 3, 4, 5], "chosen_ids": [7, 8, 2], "rejected_ids": [9, 2]}


def test_one_bos_where_the_text_spells_it_out() -> None:
    assert encode(ROW | {"prompt": "<s> w3"})["prompt_ids"] == [1, 3]


def test_one_eos_where_the_text_spells_it_out() -> None:
    assert encode(ROW | {"chosen": "w7 </s>"})["chosen_ids"] == [7, 2]


def test_a_tokenizer_that_closes_texts_does_not_close_the_prompt() -> None:
    assert encode(tokenizer=word_tokenizer(eos=True)) == encode()


def test_template() -> None:
    assert encode(prompt_template="w10 {prompt} w11")["prompt_ids"] == [1, 10, 3, 4, 5, 11]


def test_truncation_keeps_bos_and_the_end_of_the_prompt() -> None:
    assert encode(max_length=6) == {"prompt_ids": [1, 4, 5], "chosen_ids": [7, 8, 2], "rejected_ids": [9, 2]}
    assert encode(max_length=5)["prompt_ids"] == [1, 5]
    assert encode(max_length=4)["prompt_ids"] == [5]
    assert encode(max_length=6, tokenizer=word_tokenizer(bos=False))["prompt_ids"] == [3, 4, 5]
    assert encode(max_length=5, tokenizer=word_tokenizer(bos=False))["prompt_ids"] == [4, 5]


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
        (ROW | {"prompt": [{"role": "user", "content": "w3"}]}, TypeError, "chat template"),
        (ROW | {"margin": "much"}, TypeError, "Row 7 of `eval_dataset`: column 'margin' must be a number"),
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
    rows = [row | {"margin": float(i)} for i, row in enumerate(toy_pairs(1003))]  # more than a batch of the tokenizer
    encoder = PairTokenizer(tokenizer)
    expected = [encode(row, tokenizer) for row in rows]
    assert tokenize_pairs(rows, encoder) == expected
    assert tokenize_pairs(_Rows(rows), encoder) == expected
    arrow = tokenize_pairs(datasets.Dataset.from_list([row | {"other": 1} for row in rows]), encoder)
    assert set(arrow.column_names) == {"prompt_ids", "chosen_ids", "rejected_ids", "margin"}
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


@pytest.mark.parametrize("arrow", [False, True])
def test_dropped_pairs_are_counted(arrow: bool, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows: Any = [ROW, ROW | {"chosen": "w3 w4 w5 w6 w7 w8"}, ROW]
    if arrow:
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        rows = datasets.Dataset.from_list(rows)
    assert len(tokenize_pairs(rows, PairTokenizer(tokenizer, max_length=6, drop_overlong=True))) == 2
    assert "Dropped 1 of 3 pairs of `train_dataset`: longer than 6 tokens." in caplog.text


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


def test_collated_batch() -> None:
    rows = [encode(), {"prompt_ids": [1, 6], "chosen_ids": [2], "rejected_ids": [8, 8, 2]}]
    batch = PairCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [
        [1, 3, 4, 5, 7, 8, 2],
        [1, 6, 2, 0, 0, 0, 0],
        [1, 3, 4, 5, 9, 2, 0],
        [1, 6, 8, 8, 2, 0, 0],
    ]
    assert batch["response_mask"].tolist() == [
        [0, 0, 0, 0, 1, 1, 1],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 0, 0],
    ]
    assert batch["attention_mask"].sum(-1).tolist() == [7, 3, 6, 5]
    assert set(batch) == {"input_ids", "attention_mask", "response_mask"}


def test_collated_margins() -> None:
    batch = PairCollator(0)([encode(ROW | {"margin": 2}), encode(ROW | {"margin": 0.5})])
    assert torch.equal(batch["margin"], torch.tensor([2.0, 0.5]))


def test_collator_refuses_empty_sequences() -> None:
    with pytest.raises(ValueError, match="at least one id"):
        PairCollator(0)([{"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [2]}])


@pytest.mark.parametrize("bos", [True, False])
def test_training_reads_texts_as_scoring_does(bos: bool) -> None:
    """The log-probabilities that are trained are the rewards that `score` reports."""
    tokenizer, model, rows = word_tokenizer(bos), tiny("llama"), toy_pairs(5)
    batch = PairCollator(0)(PairTokenizer(tokenizer)(rows, range(5)))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    trained = response_logprobs(logits, batch["input_ids"], batch["response_mask"])
    arm = AutoregressiveRewardModel.from_backbone(model)
    prompts = [row["prompt"] for row in rows] * 2
    responses = [row[column] for column in ("chosen", "rejected") for row in rows]
    assert torch.allclose(trained, arm.score(tokenizer, prompts, responses), atol=1e-4)
