"""From tokenised pairs to what one forward reads: prompts once, several pairs in a row, little padding.

A pair takes the place of three stretches in a row: its prompt, its chosen response, its rejected response. Which token
may see which is told by two numbers a token, `segments` (the pair) and `branches` (prompt, chosen or rejected);
positions start anew in every pair and go on from the prompt's end in both responses. `pair_forward` makes the attention
mask of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import ID_COLUMNS

PROMPT, CHOSEN, REJECTED = range(3)
PAIR_NUMBERS = ("margin", "weight", "score_difference")
"""Columns with a number for each pair."""


@dataclass
class PairCollator:
    """Makes a batch of tokenised pairs, in parts of at most `max_tokens` tokens, each for one forward.

    What the batch is cut into changes neither its loss nor its gradient. Longer pairs come first, and shorter ones
    share rows: of a random batch, little is padding.

    Args:
        pad_token_id: any id of the vocabulary; nothing sees padding.
        share_prompts:
            read a prompt once for both responses. False: each response in a row of its own, behind its prompt, padded
            on the right, for models that cannot see less than all that came before.
        max_tokens: most tokens of a part, padding included; a pair that is longer is a part by itself. None: one part.

    Example:

    ```python
    >>> batch = PairCollator(pad_token_id=0)([{"prompt_ids": [1, 5], "chosen_ids": [7, 2], "rejected_ids": [2]}])
    >>> part = batch["parts"][0]
    >>> part["input_ids"], part["position_ids"], part["branches"]
    (tensor([[1, 5, 7, 2, 2]]), tensor([[0, 1, 2, 3, 2]]), tensor([[0, 0, 1, 1, 2]]))
    >>> part["predict_at"], part["targets"]  # the prompt's last token predicts the first of both responses
    (tensor([1, 2, 1]), tensor([7, 2, 2]))

    ```
    """

    pad_token_id: int
    share_prompts: bool = True
    max_tokens: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate `batch` rows.

        Returns:
            `order` `(batch,)`, the row of each pair of the parts one after the other, and `parts`, dictionaries of

            - `response_lengths` `(pairs, 2)`, tokens of chosen and rejected, and the columns of `PAIR_NUMBERS`
              `(pairs,)` that rows have;
            - `input_ids`, `position_ids`, `segments` (0 is padding), `branches`, each `(rows, length)`;
            - `targets` `(tokens,)`, the tokens of all chosen responses, then of all rejected ones, and `predict_at`
              `(tokens,)`, where in `input_ids.flatten()` the token stands that predicts each.

        Raises:
            ValueError: a row lacks ids.
        """
        pairs = [_Pair(*(list(row[column]) for column in ID_COLUMNS)) for row in rows]
        if not all(pair.prompt and pair.chosen and pair.rejected for pair in pairs):
            raise ValueError(f"Each of {ID_COLUMNS} must hold at least one id, and a row of the batch has none there.")
        places = self._parts(pairs)
        return {
            "order": torch.tensor([place for part in places for place in part]),
            "parts": [self._part([pairs[i] for i in part], [rows[i] for i in part]) for part in places],
        }

    def _parts(self, pairs: Sequence["_Pair"]) -> list[list[int]]:
        """Places of the pairs of each part."""
        order = sorted(range(len(pairs)), key=lambda place: -self._size(pairs[place]))
        parts: list[list[int]] = []
        for place in order if self.max_tokens is not None else ():
            if parts and self._tokens([pairs[i] for i in [*parts[-1], place]]) <= self.max_tokens:  # type: ignore[operator]
                parts[-1].append(place)
            else:
                parts.append([place])
        return parts or [order]

    def _size(self, pair: "_Pair") -> int:
        """Length of the row that a pair needs."""
        if self.share_prompts:
            return len(pair.prompt) + len(pair.chosen) + len(pair.rejected)
        return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))

    def _tokens(self, pairs: Sequence["_Pair"]) -> int:
        """Tokens of a part of these pairs, the longest of which comes first."""
        sizes = [self._size(pair) for pair in pairs]
        return sizes[0] * (len(_fill(sizes)) if self.share_prompts else 2 * len(pairs))

    def _part(self, pairs: Sequence["_Pair"], rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
        part = {"response_lengths": lengths}
        for column in PAIR_NUMBERS:
            if column in rows[0]:
                part[column] = torch.tensor([row[column] for row in rows], dtype=torch.float32)
        return part | (self._shared(pairs) if self.share_prompts else self._separate(pairs))

    def _shared(self, pairs: Sequence["_Pair"]) -> dict[str, Tensor]:
        bins = _fill([self._size(pair) for pair in pairs])
        rows = [_Row() for _ in bins]
        starts = [0] * len(pairs)
        for row, places in zip(rows, bins, strict=True):
            for place in places:
                starts[place] = len(row.ids)
                row.append(pairs[place], (PROMPT, CHOSEN, REJECTED))
        width = max(len(row.ids) for row in rows)
        where = {place: number * width + starts[place] for number, places in enumerate(bins) for place in places}
        predict_at = [_predictors(pair, where[place], CHOSEN) for place, pair in enumerate(pairs)]
        predict_at += [_predictors(pair, where[place], REJECTED) for place, pair in enumerate(pairs)]
        return self._tensors(rows, width) | _targets(pairs, predict_at)

    def _separate(self, pairs: Sequence["_Pair"]) -> dict[str, Tensor]:
        rows = [_Row() for _ in range(2 * len(pairs))]
        branches = [branch for branch in (CHOSEN, REJECTED) for _ in pairs]
        for row, pair, branch in zip(rows, [*pairs, *pairs], branches, strict=True):
            row.append(pair, (PROMPT, branch))
        width = max(len(row.ids) for row in rows)
        predict_at = [
            list(range(number * width + len(pair.prompt) - 1, number * width + len(row.ids) - 1))
            for number, (row, pair) in enumerate(zip(rows, [*pairs, *pairs], strict=True))
        ]
        return self._tensors(rows, width) | _targets(pairs, predict_at)

    def _tensors(self, rows: Sequence["_Row"], width: int) -> dict[str, Tensor]:
        def pad(values: list[int], padding: int) -> list[int]:
            return values + [padding] * (width - len(values))

        return {
            "input_ids": torch.tensor([pad(row.ids, self.pad_token_id) for row in rows]),
            "position_ids": torch.tensor([pad(row.positions, 0) for row in rows]),
            "segments": torch.tensor([pad(row.segments, 0) for row in rows]),
            "branches": torch.tensor([pad(row.branches, PROMPT) for row in rows]),
        }


@dataclass(frozen=True)
class _Pair:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def stretch(self, branch: int) -> list[int]:
        return (self.prompt, self.chosen, self.rejected)[branch]


class _Row:
    """A row of tokens as it grows."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []
        self.branches: list[int] = []

    def append(self, pair: _Pair, branches: Sequence[int]) -> None:
        segment = self.segments[-1] + 1 if self.segments else 1
        for branch in branches:
            ids = pair.stretch(branch)
            start = 0 if branch == PROMPT else len(pair.prompt)
            self.ids += ids
            self.positions += range(start, start + len(ids))
            self.segments += [segment] * len(ids)
            self.branches += [branch] * len(ids)


def _fill(sizes: Sequence[int]) -> list[list[int]]:
    """Put sizes, largest first, into as few bins as first-fit finds, each as large as the first size.

    Example:

    ```python
    >>> _fill([6, 4, 3, 2])
    [[0], [1, 3], [2]]

    ```
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for place, size in enumerate(sizes):
        fitting = next((number for number, left in enumerate(room) if left >= size), None)
        if fitting is None:
            fitting = len(bins)
            bins.append([])
            room.append(sizes[0])
        bins[fitting].append(place)
        room[fitting] -= size
    return bins


def _predictors(pair: _Pair, start: int, branch: int) -> list[int]:
    """Where the tokens stand that predict a response: the prompt's last one, then the response's own."""
    first = start + len(pair.prompt) + (len(pair.chosen) if branch == REJECTED else 0)
    return [start + len(pair.prompt) - 1, *range(first, first + len(pair.stretch(branch)) - 1)]


def _targets(pairs: Sequence[_Pair], predict_at: Sequence[list[int]]) -> dict[str, Tensor]:
    targets = [token for branch in (CHOSEN, REJECTED) for pair in pairs for token in pair.stretch(branch)]
    return {
        "targets": torch.tensor(targets),
        "predict_at": torch.tensor([place for places in predict_at for place in places]),
    }
