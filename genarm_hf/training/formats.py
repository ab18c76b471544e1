"""The forms in which people keep preference pairs, told apart by their columns, and each one's way to a pair.

Sources: the dataset formats of TRL (huggingface.co/docs/trl/dataset_formats), `data/README.md` of LLaMA-Factory, and
the cards of Anthropic/hh-rlhf, PKU-Alignment/PKU-SafeRLHF, HuggingFaceH4/ultrafeedback_binarized and
argilla/ultrafeedback-binarized-preferences-cleaned. Nothing here reads files: rows are mappings.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from numbers import Real
from typing import Any

Message = dict[str, str]
Dialogue = list[Message]
Text = str | Dialogue
"""A text, or messages `{"role", "content"}`."""
Pair = tuple[Text, Text, Text]
"""Prompt, chosen and rejected response."""

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SCORES = ("score_chosen", "score_rejected")
NUMBERS = ("margin", "weight", *SCORES)
"""Optional columns, each a finite number."""
_SCORE_NAMES = (
    SCORES,  # HuggingFaceH4/ultrafeedback_binarized
    ("chosen-rating", "rejected-rating"),  # argilla/ultrafeedback-binarized-preferences-cleaned
    ("chosen_rating", "rejected_rating"),
    ("chosen_score", "rejected_score"),
)
_OBJECTIVES = {"better": "better", "helpful": "better", "safer": "safer", "harmless": "safer"}
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}
_NESTED = (list, tuple, dict)
_NOT_ANSWERING = ("user", "system")  # roles that a response does not begin with


class BadRow(ValueError):
    """A row that is no preference pair.

    Args:
        reason: the kind of flaw, the same words for every row that has it.
        detail: what is wrong with this one.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class PreferenceFormat:
    """How the rows of one source become pairs.

    Args:
        name: what people call it.
        messages: whether it gives lists of messages instead of strings.
        read: makes a pair of a row, or raises [`BadRow`].
        numbers: the source's own name of each column of `NUMBERS` it has.
        repeats: whether responses that both begin with the prompt repeat it, which would be read twice.
    """

    name: str
    messages: bool
    read: Callable[[Mapping[str, Any]], Pair]
    numbers: Mapping[str, str]
    repeats: bool = False

    def __call__(self, row: Any) -> dict[str, Any]:
        """The pair of a row with its numbers.

        Raises:
            BadRow: the row is no pair of this format.
        """
        if not isinstance(row, Mapping):
            raise BadRow("wrong type", f"a row must be a mapping, got {type(row).__name__}")
        prompt, chosen, rejected = self.read(row)
        if self.repeats and _begins((prompt, chosen, rejected)):
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        for column, response in (("chosen", chosen), ("rejected", rejected)):
            last = response if isinstance(response, str) else response[-1]["content"]
            if not last.strip():
                after = " after the prompt" if self.repeats else ""
                raise BadRow("empty response", f"{column!r} says nothing{after} ({last!r})")
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | self._numbers(row)

    def _numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        for names in (("margin",), ("weight",), SCORES):
            if names[0] not in self.numbers and all(row.get(name) not in (None, "") for name in names):
                raise BadRow("uneven column", f"{names[0]!r} has a value here, but none in the first rows")
        return {name: as_number(_get(row, column), column, name == "weight") for name, column in self.numbers.items()}


def detect(columns: Mapping[str, type | None], objective: str | None = None, repeats: bool = False) -> PreferenceFormat:
    r"""The format of rows with these columns.

    Args:
        columns: each column's name and the type of its values, as [`survey`] finds them.
        objective: the preference to read where a source has several: `"better"` or `"safer"` of PKU-SafeRLHF.
        repeats: whether responses repeat the prompt, as [`repeats_prompt`] finds it.

    Raises:
        ValueError: no known format has these columns, or the objective is missing.

    Example:

    ```python
    >>> hh = detect({"chosen": str, "rejected": str})
    >>> hh({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})
    {'prompt': '\n\nHuman: Hi\n\nAssistant:', 'chosen': ' Hello', 'rejected': ' No'}

    ```
    """
    for name, needed, make in _KNOWN:
        if all(any(column in columns for column in names.split("|")) for names in needed):
            messages, read = make(columns, objective)
            return PreferenceFormat(name, messages, read, _number_columns(columns), repeats)
    known = "\n".join(f"- {name}: {', '.join(needed).replace('|', ' or ')}" for name, needed, _ in _KNOWN)
    raise ValueError(
        f"These columns are those of no known preference data: {sorted(map(str, columns))}. Rename them to prompt, "
        f"chosen and rejected, or use one of these formats:\n{known}"
    )


def survey(rows: Iterable[Any]) -> dict[str, type | None]:
    """All columns of some rows with the type of their first value that is not empty; None where all are."""
    columns: dict[str, type | None] = {}
    for row in rows:
        for column, value in row.items() if isinstance(row, Mapping) else ():
            empty = value is None or (isinstance(value, (str, Sequence, Mapping)) and not value)
            if columns.get(column) is None:
                columns[column] = None if empty else type(value)
    return columns


def repeats_prompt(form: PreferenceFormat, rows: Iterable[Any]) -> bool:
    """Whether in most of some rows both responses are strings that begin with the prompt.

    A single answer may do so by chance (`Hi` to `Hi`), and keeps what it says where the others do not.
    """
    found = []
    for row in rows:
        try:
            found.append(_begins(form.read(row)))
        except BadRow:
            continue
    return 2 * sum(found) > len(found)


def _begins(pair: Pair) -> bool:
    prompt, *responses = pair
    return isinstance(prompt, str) and prompt != "" and all(str(text).startswith(prompt) for text in responses)


def as_number(value: Any, column: str, positive: bool = False) -> float:
    """A finite number, also where a csv holds it as text.

    Raises:
        BadRow: it is none, or below 0 where it must not be.
    """
    try:
        number = float(value) if isinstance(value, (Real, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRow("not a number", f"column {column!r} must be a finite number, got {value!r:.60}")
    if positive and number < 0:
        raise BadRow("negative weight", f"column {column!r} must be at least 0, got {value!r:.60}")
    return number


def as_messages(value: Any, column: str) -> list[Message]:
    """Messages with `role` and `content`, from these or from ShareGPT's `from` and `value`.

    Raises:
        BadRow: it is no list of messages.
    """
    if isinstance(value, Mapping):  # one message, or columns of several, as `datasets.Sequence` keeps them
        sizes = {len(column) if isinstance(column, list) else None for column in value.values()}
        together = len(sizes) == 1 and None not in sizes
        rows = zip(*value.values(), strict=True) if together else ()
        value = [dict(zip(value, row, strict=True)) for row in rows] if together else [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise BadRow("wrong type", f"column {column!r} must be a list of messages, got {value!r:.60}")
    return [_message(message, column) for message in value]


def _message(message: Any, column: str) -> Message:
    if isinstance(message, Mapping) and isinstance(message.get("value"), str):
        role = _SHAREGPT_ROLES.get(str(message.get("from")))
        if role is None:
            raise BadRow("unknown role", f"column {column!r} has a message from {message.get('from')!r:.60}")
        return {"role": role, "content": message["value"]}
    if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
        hint = ": a text is a string, not a list, and each pair is a row of its own" if isinstance(message, str) else ""
        wanted = f"column {column!r} must hold messages with role and content"
        raise BadRow("wrong type", f"{wanted}, got {message!r:.60}{hint}")
    return {"role": message["role"], "content": message["content"]}


def _get(row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise BadRow("missing column", f"there is no {column!r}")
    return row[column]


def _string(row: Mapping[str, Any], column: str) -> str:
    value = _get(row, column)
    if not isinstance(value, str):
        raise BadRow("wrong type", f"column {column!r} must be a string, got {value!r:.60} ({type(value).__name__})")
    return value


def _number_columns(columns: Mapping[str, type | None]) -> dict[str, str]:
    filled = {column for column, kind in columns.items() if kind is not None}
    names = {name: name for name in ("margin", "weight") if name in filled}
    pair = next((both for both in _SCORE_NAMES if filled.issuperset(both)), None)
    return names | (dict(zip(SCORES, pair, strict=True)) if pair else {})


# ---------------------------------------------------------------------- one reader a format

Reader = Callable[[Mapping[str, Any]], Pair]


def _explicit(columns: Mapping[str, type | None], objective: str | None) -> tuple[bool, Reader]:
    if columns["chosen"] not in _NESTED:
        return False, lambda row: (_string(row, "prompt"), _string(row, "chosen"), _string(row, "rejected"))
    return True, _explicit_messages


def _explicit_messages(row: Mapping[str, Any]) -> Pair:
    """TRL's conversational rows; UltraFeedback's, whose prompt is a string and whose responses begin with it."""
    given = _get(row, "prompt")
    chosen, rejected = (as_messages(_get(row, column), column) for column in ("chosen", "rejected"))
    prompt = [{"role": "user", "content": given}] if isinstance(given, str) else as_messages(given, "prompt")
    if all(response[0]["role"] not in _NOT_ANSWERING for response in (chosen, rejected)):
        return prompt, chosen, rejected
    shared, chosen, rejected = _split_messages(chosen, rejected)
    repeated = given in [message["content"] for message in shared] if isinstance(given, str) else prompt == shared
    if not repeated:
        raise BadRow("no shared prompt", "the responses begin with another message than the prompt")
    return shared, chosen, rejected


def _implicit(columns: Mapping[str, type | None], objective: str | None) -> tuple[bool, Reader]:
    if columns["chosen"] not in _NESTED:
        return False, lambda row: _split_text(_string(row, "chosen"), _string(row, "rejected"))
    return True, lambda row: _split_messages(*(as_messages(_get(row, name), name) for name in ("chosen", "rejected")))


def _split_text(chosen: str, rejected: str) -> Pair:
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - of characters, fast
    if all(text.lstrip().startswith(HUMAN.strip()) for text in (chosen, rejected)):
        turn = shared.rfind(ASSISTANT)
        if turn < 0:
            raise BadRow("no shared prompt", f"the dialogues differ before the first {ASSISTANT!r}")
        end = turn + len(ASSISTANT)
    else:
        end = _word_start(shared, chosen, rejected)
        if not shared[:end].strip():
            raise BadRow("no shared prompt", f"the texts begin differently, {chosen!r:.30} and {rejected!r:.30}")
    return chosen[:end], chosen[end:], rejected[end:]


def _word_start(shared: str, chosen: str, rejected: str) -> int:
    """Where the responses begin: at the first word that differs, with the space before it, as in TRL, not inside it."""
    end = len(shared)
    following = (chosen[end : end + 1], rejected[end : end + 1])
    if not all(following) or any(character.isalnum() for character in following):
        end -= len(list(takewhile(str.isalnum, reversed(shared))))
    return end - 1 if shared[end - 1 : end] == " " else end


def _split_messages(chosen: Dialogue, rejected: Dialogue) -> tuple[Dialogue, Dialogue, Dialogue]:
    """The messages that both share, up to the last place where both go on with an answer."""
    same = len(list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))))
    end = min(same, len(chosen) - 1, len(rejected) - 1)
    while end > 0 and {chosen[end]["role"], rejected[end]["role"]} & {*_NOT_ANSWERING}:
        end -= 1
    if end < 1:
        raise BadRow("no shared prompt", "'chosen' and 'rejected' share no message before an answer")
    return chosen[:end], chosen[end:], rejected[end:]


def _safe_rlhf(columns: Mapping[str, type | None], objective: str | None) -> tuple[bool, Reader]:
    which = _OBJECTIVES.get(objective or "")
    if which is None or f"{which}_response_id" not in columns:
        raise ValueError(
            f"This data says which response is better and which is safer, so `objective` must be 'better' or 'safer' "
            f"('helpful' and 'harmless' mean the same), with its column `..._response_id`; got {objective!r}."
        )

    def read(row: Mapping[str, Any]) -> Pair:
        place = _get(row, f"{which}_response_id")
        if isinstance(place, bool) or place not in (0, 1, "0", "1"):
            raise BadRow("no such response", f"column '{which}_response_id' must be 0 or 1, got {place!r:.60}")
        chosen, rejected = (_string(row, f"response_{number}") for number in (int(place), 1 - int(place)))
        return _string(row, "prompt"), chosen, rejected

    return False, read


def _alpaca(columns: Mapping[str, type | None], objective: str | None) -> tuple[bool, Reader]:
    """Strings, but where there is a system prompt or a history, which only messages can tell apart."""
    messages = any(columns.get(column) is not None for column in ("system", "history"))

    def read(row: Mapping[str, Any]) -> Pair:
        parts = [_string(row, "instruction"), _string(row, "input") if row.get("input") is not None else ""]
        prompt = "\n".join(part for part in parts if part)
        chosen, rejected = _string(row, "chosen"), _string(row, "rejected")
        before = _before(row)
        if not messages:
            if before:
                raise BadRow("uneven column", "this row has a system prompt or a history, but none of the first rows")
            return prompt, chosen, rejected
        asked = [*before, {"role": "user", "content": prompt}]
        return asked, *([{"role": "assistant", "content": text}] for text in (chosen, rejected))  # type: ignore[return-value]

    return messages, read


def _before(row: Mapping[str, Any]) -> list[Message]:
    """System prompt and history, `[[question, answer], ...]`, of an Alpaca row."""
    turns = row.get("history") or []
    if not all(isinstance(turn, (list, tuple)) and [type(text) for text in turn] == [str, str] for turn in turns):
        raise BadRow("wrong type", f"column 'history' must be a list of [question, answer], got {turns!r:.60}")
    roles = ("user", "assistant")
    said = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
    return [*_system(row), *said]


def _system(row: Mapping[str, Any]) -> list[Message]:
    return [{"role": "system", "content": _string(row, "system")}] if row.get("system") else []


def _sharegpt(columns: Mapping[str, type | None], objective: str | None) -> tuple[bool, Reader]:
    def read(row: Mapping[str, Any]) -> Pair:
        prompt = as_messages(_get(row, "conversations"), "conversations")
        if prompt[0]["role"] != "system":  # a system message overrides the column, as in LLaMA-Factory
            prompt = [*_system(row), *prompt]
        chosen, rejected = (as_messages(_get(row, column), column) for column in ("chosen", "rejected"))
        if prompt[-1]["role"] == "assistant":
            raise BadRow("no shared prompt", "'conversations' ends with an answer, not with what is to be answered")
        return prompt, chosen, rejected

    return True, read


_PAIR = ("chosen", "rejected")
# Rows of more columns first, since `chosen` and `rejected` are in nearly all.
_KNOWN: tuple[tuple[str, tuple[str, ...], Callable[..., tuple[bool, Reader]]], ...] = (
    ("explicit prompt (TRL, UltraFeedback)", ("prompt", *_PAIR), _explicit),
    (
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id|safer_response_id"),
        _safe_rlhf,
    ),
    ("ShareGPT (LLaMA-Factory)", ("conversations", *_PAIR), _sharegpt),
    ("Alpaca (LLaMA-Factory)", ("instruction", *_PAIR), _alpaca),
    ("implicit prompt (TRL, HH-RLHF)", _PAIR, _implicit),
)
