"""Prompts of a data set as rows for a run; one that cannot be read becomes a row that says why, and stops no other.

A row has `id`, `prompt`, maybe `alpha`, the other columns of the input, and `error` where nothing can be asked.
"""

import datetime
import decimal
import gzip
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..training.formats import as_messages
from ..training.preferences import open_rows
from .manifest import Row
from .runner import FAILED, FIELDS

_LINES = (".jsonl", ".jsonl.gz")
# columns that lines of replies have themselves
_TAKEN = {*FIELDS, "alpha", "tokens", "reply_ids", FAILED} - {"id"}
_WRITTEN_OUT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def read_prompts(
    source: str | Path, *, split: str | None = None, prompt_column: str = "prompt", alpha_column: str = "alpha"
) -> list[Row]:
    """Rows for [`generate_dataset`] and [`run`], from a file or a hub data set.

    Args:
        source: jsonl (perhaps `.gz`), read line by line, so that a broken one costs itself only; json, csv, tsv,
            parquet; a folder; or the hub name of a data set.
        split: of a source that has several.
        prompt_column: the column with a text or a list of messages, which becomes `prompt`.
        alpha_column: the column with a row's own guidance strength, which becomes `alpha`.

    Returns:
        a row each, in order. Without a column `id` they are numbered from 0; where only some have one, the others are
        called `"line 3"` (of a jsonl file) or `"row 3"`. A column that lines of replies have themselves is carried over
        under another name: `system` as `input_system`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: `datasets` is needed and not installed.
        ValueError: no row has a prompt; ids come twice; a column is not there; the split has to be chosen.
    """
    names = {prompt_column: "prompt", alpha_column: "alpha"}
    found = [(where, _row(where, raw, names)) for where, raw in _places(str(source), split)]
    if all(FAILED in row for _, row in found):
        reason = found[0][1][FAILED] if found else "there are no rows"
        raise ValueError(f"{str(source)!r} has no prompt that can be read: {reason}.")
    if alpha_column != "alpha" and not any("alpha" in row for _, row in found):
        raise ValueError(f"No row of {str(source)!r} has the column {alpha_column!r}.")
    return _identified(found)


# ---------------------------------------------------------------------- where rows are


def _places(source: str, split: str | None) -> Iterable[tuple[str, Any]]:
    """Where a row is, and what is there: a mapping, or an exception."""
    if source.endswith(_LINES) and Path(source).is_file() and split is None:
        return _json_lines(source)
    return ((f"row {number}", row) for number, row in enumerate(open_rows(source, split), 1))


def _json_lines(path: str) -> Iterator[tuple[str, Any]]:
    opener: Any = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"line {number}", _json_line(text)


def _json_line(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return ValueError(f"it is not JSON in UTF-8 ({error})")


# ---------------------------------------------------------------------- what is there


def _row(where: str, raw: Any, names: Mapping[str, str]) -> Row:
    """A row of ours, maybe without an id."""
    row: Row = {}
    try:
        if isinstance(raw, Exception):
            raise raw
        if not isinstance(raw, Mapping):
            raise ValueError(f"it must be an object with columns, and is {raw!r:.60}")
        row = {_name(column, raw, names): value for column, value in _as_json(raw).items()}
        _check_id(row)
        row["prompt"] = _prompt(row, raw, names)
    except ValueError as error:
        row = {"prompt": None} | row | {FAILED: f"{where}: {error}"}
    return row


def _name(column: str, raw: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What a column is called in our rows."""
    if column in names:
        return names[column]
    while column in _TAKEN:
        column = f"input_{column}"
        while column in raw:
            column = f"{column}_"
    return column


def _as_json(raw: Mapping[str, Any]) -> Row:
    try:
        return json.loads(json.dumps(dict(raw), default=_written_out, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON ({error})") from error


def _written_out(value: Any) -> str:
    if isinstance(value, _WRITTEN_OUT):
        return str(value)
    raise TypeError(f"a column holds {type(value).__name__}")


def _check_id(row: Row) -> None:
    identity = row.pop("id", None)
    if isinstance(identity, (int, str)) and not isinstance(identity, bool):
        row["id"] = identity
    elif identity is not None:
        row["input_id"] = identity
        raise ValueError(f"`id` must be a string or an integer, got {identity!r:.60}")


def _prompt(row: Row, raw: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A text, or messages."""
    column = next(iter(names))
    prompt = row.get("prompt")
    if prompt is None or prompt == []:
        columns = f"; the columns are {', '.join(map(str, raw))}" if column not in raw else ""
        raise ValueError(f"there is no prompt in the column {column!r}{columns}")
    if not isinstance(prompt, str):
        return as_messages(prompt, column)
    if not prompt.strip():
        raise ValueError(f"the prompt in the column {column!r} is empty")
    return prompt


def _identified(found: list[tuple[str, Row]]) -> list[Row]:
    """Rows with ids, of which none comes twice."""
    named = any("id" in row for _, row in found)
    rows = [{"id": where if named else number} | row for number, (where, row) in enumerate(found)]
    first: dict[Any, str] = {}
    for (where, _), row in zip(found, rows, strict=True):
        if row["id"] in first:
            raise ValueError(
                f"The id {row['id']!r} is in {first[row['id']]} and in {where}, and replies could not be told apart. "
                "Make ids different, or take the column away: rows are then numbered."
            )
        first[row["id"]] = where
    return rows
