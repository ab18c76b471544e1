"""From rows of text to batches: tokenising preference pairs, truncating them, padding them into tensors.

A row of text has the string columns `prompt`, `chosen` and `rejected` (the responses, without the prompt). A tokenised
row has `prompt_ids`, `chosen_ids` and `rejected_ids`. Both may have a number `margin`, see `losses.preference_loss`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers.utils import logging

from ..scoring import Encoded, encode_pairs

logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("prompt", "chosen", "rejected")
ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
TRAINING_COLUMNS = (*ID_COLUMNS, "margin")
_BATCH = 1000  # rows per call of the tokenizer


@dataclass(frozen=True)
class PairTokenizer:
    """Turns rows of text into ids, in the way `AutoregressiveRewardModel.score` does.

    The prompt gets the tokenizer's special tokens in front (BOS once, even where the text spells it out). Responses get
    none, and one EOS at their end where the tokenizer has one. Both responses of a pair follow the same prompt ids.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        max_length:
            most tokens of prompt and response together; a longer prompt loses its start (but BOS). None: no limit.
        prompt_template: format string with `{prompt}` that prompts are put into. None: prompts as they are.
        drop_overlong: leave pairs out whose response leaves no room for a prompt; otherwise they are an error.
        name: what messages call the dataset.
    """

    tokenizer: Any
    max_length: int | None = None
    prompt_template: str | None = None
    drop_overlong: bool = False
    name: str = "train_dataset"

    def __call__(self, rows: Sequence[Any], indices: Sequence[int]) -> list[dict[str, Any]]:
        """Tokenise rows; dropped ones are missing from the result.

        Args:
            rows: mappings with `TEXT_COLUMNS`.
            indices: their row numbers, for messages.

        Raises:
            TypeError: a row is no mapping, or a text is no string.
            ValueError: a column is missing, a text has no tokens, or a response is too long.
        """
        places = [f"Row {index} of `{self.name}`" for index in indices]
        texts = [_texts(row, place) for row, place in zip(rows, places, strict=True)]
        prompts, chosen, rejected = (list(column) for column in zip(*texts, strict=True))
        encoded = encode_pairs(self.tokenizer, [*prompts, *prompts], [*chosen, *rejected], self.prompt_template)
        pairs = zip(rows, places, encoded[: len(rows)], encoded[len(rows) :], strict=True)
        tokenized = [self._pair(row, place, *both) for row, place, *both in pairs]
        return [row for row in tokenized if row is not None]

    def _pair(self, row: Mapping[str, Any], place: str, chosen: Encoded, rejected: Encoded) -> dict[str, Any] | None:
        ids, start = chosen
        chosen_ids, rejected_ids = ids[start:], rejected[0][start:]
        prompt_ids = self._fit(ids[:start], max(len(chosen_ids), len(rejected_ids)), place)
        if prompt_ids is None:
            return None
        return dict(zip(ID_COLUMNS, (prompt_ids, chosen_ids, rejected_ids), strict=True)) | _margin(row, place)

    def _fit(self, prompt_ids: list[int], response: int, place: str) -> list[int] | None:
        """The prompt's end, as much of it as leaves room for `response` tokens; None for a pair to be dropped."""
        if not prompt_ids:
            raise ValueError(
                f"{place} has a prompt without tokens, so nothing predicts the response's first token. "
                "Put text into `prompt`, or set `prompt_template`."
            )
        if self.max_length is None or len(prompt_ids) + response <= self.max_length:
            return prompt_ids
        room = self.max_length - response
        if room < 1 and self.drop_overlong:
            return None
        if room < 1:
            raise ValueError(
                f"{place} has a response of {response} tokens, which leaves no room for a prompt within "
                f"`max_length={self.max_length}`. Raise it, or drop such pairs with `overlong_responses='drop'`."
            )
        if room > 1 and prompt_ids[0] == self.tokenizer.bos_token_id:
            return prompt_ids[:1] + prompt_ids[1 - room :]
        return prompt_ids[-room:]


def _texts(row: Any, place: str) -> tuple[str, ...]:
    if not isinstance(row, Mapping):
        raise TypeError(f"{place} must be a mapping with the columns {TEXT_COLUMNS}, got {type(row).__name__}.")
    missing = [column for column in TEXT_COLUMNS if column not in row]
    if missing:
        found = sorted(map(str, row))
        raise ValueError(f"{place} has no column {missing[0]!r}, only {found}. Needed: {TEXT_COLUMNS}.")
    for column in TEXT_COLUMNS:
        text = row[column]
        if not isinstance(text, str):
            hint = " Apply the tokenizer's chat template first." if isinstance(text, Sequence) else ""
            kind = type(text).__name__
            raise TypeError(f"{place}: column {column!r} must be a string, got {text!r:.60} ({kind}).{hint}")
        if column != "prompt" and not text.strip():
            raise ValueError(f"{place}: column {column!r} is an empty response ({text!r}). Leave such rows out.")
    return tuple(row[column] for column in TEXT_COLUMNS)


def _margin(row: Mapping[str, Any], place: str) -> dict[str, float]:
    if "margin" not in row:
        return {}
    if not isinstance(row["margin"], Real) or row["margin"] != row["margin"]:
        raise TypeError(f"{place}: column 'margin' must be a number, got {row['margin']!r}.")
    return {"margin": float(row["margin"])}


def tokenize_pairs(dataset: Any, encode: PairTokenizer, num_proc: int | None = None) -> Any:
    """Tokenise a whole dataset, so that a bad row is reported before training starts.

    Args:
        dataset: a list of rows, a `datasets.Dataset` or a torch `Dataset` with a length; of text, or tokenised.
        encode: how rows are tokenised. The number of rows it drops is logged.
        num_proc: processes that tokenise a `datasets.Dataset`.

    Returns:
        rows with `prompt_ids`, `chosen_ids`, `rejected_ids`: a `datasets.Dataset` where one was given, else a list.
        A tokenised dataset as it is.

    Raises:
        TypeError: the dataset has no length or cannot be indexed.
        ValueError: it is empty, or no pair is left; and everything that `encode` raises.
    """
    _check_dataset(dataset, encode.name)
    if is_tokenized(dataset):
        return dataset
    if hasattr(dataset, "column_names") and hasattr(dataset, "map"):
        tokenized = _map_arrow(dataset, encode, num_proc)
    else:
        batches = (range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH))
        tokenized = [row for indices in batches for row in encode([dataset[index] for index in indices], indices)]
    _report_dropped(len(dataset), len(tokenized), encode)
    return tokenized


def is_tokenized(dataset: Any) -> bool:
    """Whether rows already hold ids, judged by the first one."""
    row = dataset[0]
    return isinstance(row, Mapping) and all(column in row for column in ID_COLUMNS)


def _check_dataset(dataset: Any, name: str) -> None:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"`{name}` must be a list of rows or a dataset with a length, got {type(dataset).__name__}. "
            "Collect a stream into a list, or into a `datasets.Dataset`."
        )
    if isinstance(dataset, (str, bytes, Mapping)):
        raise TypeError(
            f"`{name}` must be a list of rows or a dataset, got {type(dataset).__name__}. "
            "Load files with `datasets.load_dataset(...)[split]`."
        )
    if len(dataset) == 0:
        raise ValueError(f"`{name}` is empty. Pass at least one preference pair.")


def _map_arrow(dataset: Any, encode: PairTokenizer, num_proc: int | None) -> Any:
    """Tokenise a `datasets.Dataset` on disk, in batches, since only batches may lose rows."""
    names = (*ID_COLUMNS, *(("margin",) if "margin" in dataset.column_names else ()))

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        encoded = encode(rows, indices)
        return {name: [row[name] for row in encoded] for name in names}

    return dataset.map(
        encode_batch,
        batched=True,
        batch_size=_BATCH,
        with_indices=True,
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        desc=f"Tokenizing {encode.name}",
    )


def _report_dropped(before: int, after: int, encode: PairTokenizer) -> None:
    if after == 0:
        raise ValueError(
            f"No pair of `{encode.name}` fits into `max_length={encode.max_length}`: all {before} were dropped."
        )
    if after < before:
        logger.warning(
            f"Dropped {before - after} of {before} pairs of `{encode.name}`: longer than {encode.max_length} tokens."
        )


@dataclass(frozen=True)
class PairCollator:
    """Pads tokenised pairs into one batch, chosen responses first, then rejected ones, so that one forward does both.

    One forward a step is what DDP and FSDP expect. Padding is on the right: position ids are then simply 0, 1, 2, ...

    Args:
        pad_token_id: any id of the vocabulary; padding is masked.

    Example:

    ```python
    >>> batch = PairCollator(pad_token_id=0)([{"prompt_ids": [1, 5], "chosen_ids": [7, 2], "rejected_ids": [2]}])
    >>> batch["input_ids"]
    tensor([[1, 5, 7, 2],
            [1, 5, 2, 0]])
    >>> batch["response_mask"]
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 0]])

    ```
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate `batch` rows.

        Returns:
            `input_ids`, `attention_mask` and `response_mask`, each `(2 * batch, length)`, and `margin` `(batch,)` where
            rows have one.
        """
        pairs = [(list(row["prompt_ids"]), list(row[ids])) for ids in ("chosen_ids", "rejected_ids") for row in rows]
        if not all(prompt and response for prompt, response in pairs):
            raise ValueError(f"Each of {ID_COLUMNS} must hold at least one id, and a row of the batch has none there.")
        batch = _right_pad(pairs, self.pad_token_id)
        if "margin" in rows[0]:
            batch["margin"] = torch.tensor([row["margin"] for row in rows], dtype=torch.float32)
        return batch


def _right_pad(pairs: list[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    sizes = torch.tensor([[len(prompt) + len(response)] for prompt, response in pairs])
    starts = torch.tensor([[len(prompt)] for prompt, _ in pairs])
    positions = torch.arange(int(sizes.max()))
    attention_mask = (positions < sizes).long()
    ids = torch.full_like(attention_mask, pad_token_id)
    ids[attention_mask.bool()] = torch.tensor([token for prompt, response in pairs for token in (*prompt, *response)])
    return {"input_ids": ids, "attention_mask": attention_mask, "response_mask": attention_mask * (positions >= starts)}
