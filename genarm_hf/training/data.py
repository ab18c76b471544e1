"""From rows of text to batches: tokenising preference pairs, truncating them, padding them into tensors.

A row of text has the columns `prompt`, `chosen` and `rejected` (the responses, without the prompt): strings, or lists
of messages `{"role", "content"}`. A tokenised row has `prompt_ids`, `chosen_ids`, `rejected_ids` and their `length`
together. Rows may have numbers: a `margin` (see `losses.preference_loss`), a `weight` of the pair in the loss, and
`score_chosen` with `score_rejected`, of which tokenised rows keep the `score_difference`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch.utils.data import IterableDataset
from transformers.utils import logging

from ..scoring import encode_pairs
from .formats import NUMBERS, SCORES, BadRow, as_messages

logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("prompt", "chosen", "rejected")
ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
TRAINING_COLUMNS = (*ID_COLUMNS, "length", "margin", "weight", "score_difference")
"""All columns that tokenised rows may have: `ID_COLUMNS` and `length` always, the numbers where the rows have them."""
_TRUNCATED = "prompt_truncated"  # counted in the rows, since several processes may make them
_BATCH = 1000  # rows per call of the tokenizer


@dataclass(frozen=True)
class PairTokenizer:
    """Turns rows of text into ids, in the way `AutoregressiveRewardModel.score` does.

    The prompt gets the tokenizer's special tokens in front (BOS once, even where the text spells it out). Responses get
    none, and one EOS at their end where the tokenizer has one. Both responses of a pair follow the same prompt ids.

    Messages go through the tokenizer's chat template, which brings the special tokens itself: the prompt is what it
    makes of the prompt's messages and the opening of an answer, as for `generate()`; the response is the rest, up to
    the EOS at its end, which is added where the template has none.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        max_length: most tokens of prompt and response together. None: no limit.
        prompt_template: format string with `{prompt}` that prompts are put into. None: prompts as they are.
        drop_overlong: leave pairs out whose response leaves no room for a prompt; otherwise they are an error.
        name: what messages call the dataset.
        overlong_prompts:
            `"truncate"`: too long a prompt loses its start (but BOS), and nothing of a response is lost; `"drop"`: the
            pair is left out.
    """

    tokenizer: Any
    max_length: int | None = None
    prompt_template: str | None = None
    drop_overlong: bool = False
    name: str = "train_dataset"
    overlong_prompts: str = "truncate"

    def __call__(self, rows: Sequence[Any], indices: Sequence[int]) -> list[dict[str, Any]]:
        """Tokenise rows; dropped ones are missing from the result.

        Args:
            rows: mappings with `TEXT_COLUMNS`.
            indices: their row numbers, for messages.

        Raises:
            TypeError: a row is no mapping, a text is neither string nor messages, or a number is none.
            ValueError: a column is missing, a text has no tokens, a response is too long, or a chat template does not
                fit.
        """
        return [_without(row, _TRUNCATED) for row in self.encode(rows, indices, _numbers_of(rows[0]))]

    def encode(self, rows: Sequence[Any], indices: Sequence[int], numbers: Collection[str]) -> list[dict[str, Any]]:
        """As calling it, and each row says whether its prompt was truncated. `numbers`: those that each row has."""
        places = [f"Row {index} of `{self.name}`" for index in indices]
        chats = isinstance(rows[0], Mapping) and isinstance(rows[0].get("prompt"), (list, tuple, Mapping))
        texts = [_texts(row, place, chats) for row, place in zip(rows, places, strict=True)]
        triples = self._encode_chats(texts, places) if chats else self._encode_texts(texts)
        pairs = zip(rows, places, triples, strict=True)
        tokenized = [self._pair(place, *triple) | _numbers(row, place, numbers) for row, place, triple in pairs]
        return [row for row in tokenized if "prompt_ids" in row]

    def _encode_texts(self, texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], ...]]:
        prompts, chosen, rejected = (list(column) for column in zip(*texts, strict=True))
        encoded = encode_pairs(self.tokenizer, [*prompts, *prompts], [*chosen, *rejected], self.prompt_template)
        both = zip(encoded[: len(texts)], encoded[len(texts) :], strict=True)
        return [(ids[:start], ids[start:], other[start:]) for (ids, start), (other, _) in both]

    def _encode_chats(self, texts: Sequence[tuple[Any, ...]], places: Sequence[str]) -> list[tuple[list[int], ...]]:
        if self.prompt_template is not None:
            raise ValueError(
                f"{places[0]} holds messages, which the tokenizer's chat template puts into form; leave out "
                f"`prompt_template`, got {self.prompt_template!r}."
            )
        rendered = [self._render(text, place) for text, place in zip(texts, places, strict=True)]
        openings, *responses = (list(column) for column in zip(*rendered, strict=True))
        prompts = self._plain(openings)
        closed = ([self._closed(ids) for ids in self._continue(openings, prompts, column)] for column in responses)
        return list(zip(prompts, *closed, strict=True))

    def _plain(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _continue(self, openings: list[str], prompts: list[list[int]], responses: list[str]) -> list[list[int]]:
        """Ids of responses as they stand behind their prompts: by themselves, some tokenizers put a space in front."""
        wholes = self._plain([opening + response for opening, response in zip(openings, responses, strict=True)])
        rows = zip(wholes, prompts, self._plain(responses), strict=True)
        return [whole[len(ids) :] if whole[: len(ids)] == ids else alone for whole, ids, alone in rows]

    def _closed(self, ids: list[int]) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]

    def _render(self, texts: tuple[Any, ...], place: str) -> tuple[str, str, str]:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"{place} holds messages, but the tokenizer has no chat template. Set `tokenizer.chat_template`, or "
                "make strings of the messages."
            )
        prompt, chosen, rejected = texts
        opening = self._apply_template(prompt, place, add_generation_prompt=True)
        wholes = [self._apply_template([*prompt, *response], place) for response in (chosen, rejected)]
        if not all(whole.startswith(opening) for whole in wholes):
            raise ValueError(
                f"{place}: the chat template makes {opening[-40:]!r} of the prompt's end, which is not how the prompt "
                "with its response begins. Use a template that renders a prompt the same with and without an answer."
            )
        first, second = (_until_eos(whole[len(opening) :], self.tokenizer.eos_token) for whole in wholes)
        return opening, first, second

    def _apply_template(self, messages: list[Any], place: str, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise ValueError(f"{place}: the tokenizer's chat template refuses the messages: {error}") from error

    def _pair(
        self, place: str, prompt_ids: list[int], chosen_ids: list[int], rejected_ids: list[int]
    ) -> dict[str, Any]:
        """The tokenised row; an empty one for a pair to be dropped."""
        fitting = self._fit(prompt_ids, max(len(chosen_ids), len(rejected_ids)), place)
        if fitting is None:
            return {}
        triple = (fitting, chosen_ids, rejected_ids)
        length = sum(len(ids) for ids in triple)
        truncated = len(fitting) < len(prompt_ids)
        return dict(zip(ID_COLUMNS, triple, strict=True)) | {"length": length, _TRUNCATED: truncated}

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
        if room < 1 and not self.drop_overlong:
            raise ValueError(
                f"{place} has a response of {response} tokens, which leaves no room for a prompt within "
                f"`max_length={self.max_length}`. Raise it, or drop such pairs with `overlong_responses='drop'`."
            )
        if room < 1 or self.overlong_prompts == "drop":
            return None
        if room > 1 and prompt_ids[0] == self.tokenizer.bos_token_id:
            return prompt_ids[:1] + prompt_ids[1 - room :]
        return prompt_ids[-room:]


def _until_eos(text: str, eos: str | None) -> str:
    """What a template writes behind its last EOS, such as a newline, is never generated."""
    end = text.rfind(eos) + len(eos) if eos and eos in text else 0
    return text[:end] if end and not text[end:].strip() else text


def _without(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}


def _texts(row: Any, place: str, chats: bool) -> tuple[Any, ...]:
    """Prompt, chosen and rejected: strings, or with `chats` lists of messages."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{place} must be a mapping with the columns {TEXT_COLUMNS}, got {type(row).__name__}.")
    missing = [column for column in TEXT_COLUMNS if column not in row]
    if missing:
        found = sorted(map(str, row))
        raise ValueError(f"{place} has no column {missing[0]!r}, only {found}. Needed: {TEXT_COLUMNS}.")
    texts: tuple[Any, ...] = tuple(
        _messages(row[name], name, place) if chats else _string(row[name], name, place) for name in TEXT_COLUMNS
    )
    for column, text in zip(TEXT_COLUMNS[1:], texts[1:], strict=True):
        said = text[-1]["content"] if chats else text
        if not said.strip():
            raise ValueError(f"{place}: column {column!r} is an empty response ({said!r}). Leave such rows out.")
    return texts


def _string(text: Any, column: str, place: str) -> str:
    if not isinstance(text, str):
        hint = " Either all three columns are lists of messages, or none." if isinstance(text, Sequence) else ""
        kind = type(text).__name__
        raise TypeError(f"{place}: column {column!r} must be a string, got {text!r:.60} ({kind}).{hint}")
    return text


def _messages(value: Any, column: str, place: str) -> list[dict[str, str]]:
    try:
        return as_messages(value, column)
    except BadRow as error:
        raise TypeError(
            f"{place}: {error}. `prompt`, `chosen` and `rejected` are all strings or all messages."
        ) from None


def _numbers_of(row: Any) -> frozenset[str]:
    return frozenset(NUMBERS).intersection(row) if isinstance(row, Mapping) else frozenset()


def _numbers(row: Mapping[str, Any], place: str, expected: Collection[str]) -> dict[str, float]:
    """The row's numbers, which all rows have or none."""
    if _numbers_of(row) != set(expected):
        raise ValueError(
            f"{place} has {sorted(_numbers_of(row)) or 'no'} number columns, but the first row has "
            f"{sorted(expected) or 'none'}. All rows need the same."
        )
    numbers = {name: _number(row[name], name, place) for name in NUMBERS if name in expected}
    scores = [numbers.pop(name) for name in SCORES if name in numbers]
    if len(scores) == 1:
        raise ValueError(f"{place} has one of the columns {SCORES} only. Give both scores, or none.")
    return numbers | ({"score_difference": scores[0] - scores[1]} if scores else {})


def _number(value: Any, column: str, place: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{place}: column {column!r} must be a number, got {value!r:.60}.")
    if not math.isfinite(value) or (column == "weight" and value < 0):
        rule = "a finite number of at least 0" if column == "weight" else "a finite number"
        raise ValueError(f"{place}: column {column!r} must be {rule}, got {value!r}.")
    return float(value)


def tokenize_pairs(dataset: Any, encode: PairTokenizer, num_proc: int | None = None) -> Any:
    """Tokenise a whole dataset, so that a bad row is reported before training starts.

    Args:
        dataset: a list of rows, a `datasets.Dataset` or a torch `Dataset` with a length; of text, or tokenised.
        encode: how rows are tokenised. How many prompts it truncates and how many pairs it drops is logged.
        num_proc: processes that tokenise a `datasets.Dataset`.

    Returns:
        rows with `prompt_ids`, `chosen_ids`, `rejected_ids`, their `length` together, and the numbers that rows have:
        a `datasets.Dataset` where one was given, else a list. A tokenised dataset as it is.

    Raises:
        TypeError: the dataset has no length or cannot be indexed.
        ValueError: it is empty, or no pair is left; and everything that `encode` raises.
    """
    _check_dataset(dataset, encode.name)
    if is_tokenized(dataset):
        return dataset
    if hasattr(dataset, "column_names") and hasattr(dataset, "map"):
        flagged = _map_arrow(dataset, encode, num_proc)
        # arrow reads one column without the others
        truncated = sum(flagged.select_columns([_TRUNCATED]).with_format("numpy")[:][_TRUNCATED])
        tokenized: Any = flagged.remove_columns(_TRUNCATED)
    else:
        flagged = _map_rows(dataset, encode)
        truncated = sum(row[_TRUNCATED] for row in flagged)
        tokenized = [_without(row, _TRUNCATED) for row in flagged]
    _report(len(dataset), len(tokenized), int(truncated), encode)
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


def _map_rows(dataset: Any, encode: PairTokenizer) -> list[dict[str, Any]]:
    numbers = _numbers_of(dataset[0])
    batches = (range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH))
    return [row for places in batches for row in encode.encode([dataset[i] for i in places], places, numbers)]


def _map_arrow(dataset: Any, encode: PairTokenizer, num_proc: int | None) -> Any:
    """Tokenise a `datasets.Dataset` on disk, in batches, since only batches may lose rows."""
    from datasets import Features, List, Value

    # a list, since datasets finds what it has cached by a hash of it, and sets are in another order in every process
    numbers = [name for name in NUMBERS if name in dataset.column_names]
    kept = [name for name in numbers if name not in SCORES]
    kept += ["score_difference"] if len(kept) < len(numbers) else []
    features = Features(
        dict.fromkeys(ID_COLUMNS, List(Value("int32")))
        | {"length": Value("int32")}
        | dict.fromkeys(kept, Value("float64"))
        | {_TRUNCATED: Value("bool")}
    )

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        encoded = encode.encode(rows, indices, numbers)
        return {name: [row[name] for row in encoded] for name in features}

    return dataset.map(
        encode_batch,
        batched=True,
        batch_size=_BATCH,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=features,
        num_proc=num_proc,
        desc=f"Tokenizing {encode.name}",
    )


def _report(before: int, after: int, truncated: int, encode: PairTokenizer) -> None:
    dropped, limit = before - after, encode.max_length
    if after == 0:
        raise ValueError(f"No pair of `{encode.name}` fits into `max_length={limit}`: all {before} were dropped.")
    if truncated:
        logger.warning(
            f"Truncated the prompts of {truncated} of {before} pairs of `{encode.name}`, dropped {dropped}: "
            f"longer than {limit} tokens."
        )
    elif dropped:
        logger.warning(f"Dropped {dropped} of {before} pairs of `{encode.name}`: longer than {limit} tokens.")


def check_ids(rows: Any, name: str, known: int) -> None:
    """Refuse tokenised rows with ids that a model does not have.

    Args:
        rows: with `ID_COLUMNS`.
        name: what messages call the dataset.
        known: how many ids the model has embeddings of.

    Raises:
        ValueError: an id is not below `known`.
    """
    largest = max(max(row[column]) for row in rows for column in ID_COLUMNS if row[column])
    if largest >= known:
        raise ValueError(
            f"`{name}` has the token id {largest}, and the model knows only ids below {known}. Pass the model's own "
            "tokenizer; where tokens were added to it, `model.resize_token_embeddings(len(tokenizer))`."
        )
