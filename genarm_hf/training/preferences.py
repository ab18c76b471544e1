"""Preference data from where people keep it: the hub, files, `datasets`, lists; split without sharing prompts.

`formats` knows what rows look like; here they are found, read one after the other, counted, and divided by prompt.
"""

import csv
import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from transformers.utils import logging

from . import formats
from .formats import NUMBERS, SCORES, BadRow, PreferenceFormat, Text

logger = logging.get_logger(__name__)

_IDENTICAL, _EQUAL = "identical responses", "equal scores"
_PROBLEM, _KEY, _ORDER, _REPEATED = _FOUND = ("_problem", "_key", "_order", "_repeated")
_SURVEYED = 100  # rows that tell the columns and whether they hold text or messages
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl")
_CONTENT = ("prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids", *NUMBERS, "score_difference")
_BATCH = 1000
HELD_OUT_SPLITS = ("test", "validation", "eval", "train")
"""Which split to judge on where a source has several, the best first: what `prefer` of [`load_preferences`] takes."""


def load_preferences(
    source: Any,
    objective: str | None = None,
    *,
    split: str | None = None,
    prefer: Sequence[str] = ("train",),
    name: str | None = None,
    revision: str | None = None,
    skip_bad_rows: bool = False,
    token: str | bool | None = None,
) -> Any:
    """Preference pairs from any of the formats in which they are kept, see `formats`.

    Pairs that carry no signal are left out: identical responses, and equal scores. Duplicates, and pairs that others
    contradict, stay. What was found is logged in one line.

    Args:
        source (`str`, `Path`, `datasets.Dataset`, `datasets.DatasetDict` or list of dictionaries):
            a hub id (`"owner/name"`, or `"owner/name/folder"` for a folder of it), a file (json, jsonl, csv, tsv, each
            also `.gz`; parquet), a directory of such files or of `save_to_disk`, or rows. What is in a csv stays as it
            is written: `007` and `null` are texts.
        objective (`str`, *optional*):
            which preference to read where rows have two: `"better"` (or `"helpful"`) or `"safer"` (or `"harmless"`) of
            PKU-SafeRLHF. Other formats do not look at it.
        split: one of the splits of a source that has several. None: the only one, or else the first of `prefer`.
        prefer: splits to look for where `split` is None and there are several; which one it was is logged.
        name: configuration of a hub dataset.
        revision: version of a hub dataset: branch, tag or commit.
        skip_bad_rows: leave rows out that are no pairs, and say how many and why; otherwise the first is an error.
        token: the hub's access token, or True for the saved one.

    Returns:
        `datasets.Dataset` with `prompt`, `chosen` and `rejected`, all strings or all lists of messages `{"role",
        "content"}`, and those of the numbers `margin`, `weight`, `score_chosen` and `score_rejected` the source has.

    Raises:
        ImportError: `datasets` is not installed.
        FileNotFoundError: there is no such file.
        TypeError: `source` is nothing of the above.
        ValueError: a row is bad (with its number, counted from 0, and the reason); no pair is left; the columns are
            those of no known format; the split or the objective has to be chosen.

    Example:

    ```python
    >>> pairs = load_preferences([{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}])
    >>> pairs[0]
    {'prompt': 'The sky is', 'chosen': ' blue.', 'rejected': ' green.'}

    ```
    """
    _datasets()
    label = str(source) if isinstance(source, (str, os.PathLike)) else "source"
    source = _open_path(label, name, revision, token) if isinstance(source, (str, os.PathLike)) else source
    rows = _rows_of(source, split, prefer, label)
    peek = list(rows.select(range(min(_SURVEYED, len(rows)))) if hasattr(rows, "select") else islice(rows, _SURVEYED))
    columns = formats.survey(peek)
    if not columns:
        flaw = next((f": row {index} is bad, {row}" for index, row in enumerate(peek) if isinstance(row, BadRow)), "")
        raise ValueError(f"{label!r} has no rows with columns{flaw}. Pass at least one preference pair.")
    form = formats.detect(columns, objective)
    repeats = formats.repeats_prompt(form, (row for row in peek if isinstance(row, Mapping)))
    found = {"columns": columns, "objective": objective, "repeats": repeats}
    return _reported(_converted(rows, form, found | {"label": label, "skip": skip_bad_rows}), label)


# ---------------------------------------------------------------------- where rows are


def open_rows(source: str, split: str | None = None) -> Any:
    """Rows of any kind, from a hub data set, a file or a directory, as [`load_preferences`] finds them.

    Args:
        source: as there.
        split: one of the splits of a source that has several.

    Returns:
        something to iterate over once: mappings, and a [`BadRow`] for each line that cannot be read.

    Raises:
        ImportError: `datasets` is needed and not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read; the split has to be chosen.
    """
    return _rows_of(_open_path(source, None, None, None), split, (), source)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Data of this kind need the package datasets: pip install 'genarm-hf[train]'.") from error
    return datasets


class _File:
    """Rows of a json, jsonl, csv or tsv file, as they are written; a line that cannot be read is a [`BadRow`]."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.suffix = _suffix(Path(path))

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._rows()
        except (csv.Error, json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(
                f"`source` {self.path!r} cannot be read: {error}. It must be {self.suffix} in UTF-8."
            ) from error

    def _rows(self) -> Iterator[Any]:
        with self._text() as file:
            if self.suffix in _DELIMITERS:
                yield from _csv_rows(file, _DELIMITERS[self.suffix])
            elif self.suffix == ".json" and _first_character(file) == "[":
                yield from json.load(file)
            elif _is_one_object(file):
                raise ValueError(
                    f"`source` {self.path!r} is one json object over several lines. It must be a list of objects, one "
                    "a pair, or hold one object a line (jsonl)."
                )
            else:
                yield from (_json_row(line) for line in file if line.strip())

    def _text(self) -> IO[str]:
        opener: Any = gzip.open if self.path.endswith(".gz") else open
        return opener(self.path, "rt", encoding="utf-8-sig", newline="" if self.suffix in _DELIMITERS else "\n")


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _first_character(file: IO[str]) -> str:
    start = next((line for line in file if line.strip()), "").lstrip()[:1]
    file.seek(0)
    return start


def _is_one_object(file: IO[str]) -> bool:
    """Whether json is written over several lines, where each line should be a row."""
    first = next((line for line in file if line.strip()), "{}")
    file.seek(0)
    try:
        return isinstance(_json_row(first), BadRow) and isinstance(json.load(file), dict)
    except json.JSONDecodeError:
        return False
    finally:
        file.seek(0)


def _json_row(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return BadRow("not json", str(error))


def _csv_rows(file: IO[str], delimiter: str) -> Iterator[Any]:
    limit = csv.field_size_limit(2**31 - 1)  # responses may be longer than the default of 128 kB
    try:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield BadRow("too many fields", f"{len(row[None])} more than the header") if None in row else row
    finally:
        csv.field_size_limit(limit)


def _rows_of(source: Any, split: str | None, prefer: Sequence[str], label: str) -> Any:
    """A `datasets.Dataset`, a list, or a [`_File`]."""
    if isinstance(source, Mapping):
        return _rows_of(_one_split(source, split, prefer, label), None, prefer, label)
    if split is not None:
        raise ValueError(f"`split` is for sources with several splits, which this one is not; got {split!r}.")
    if isinstance(source, (list, tuple, _File)) or (hasattr(source, "column_names") and hasattr(source, "select")):
        return source
    raise TypeError(
        "`source` must be a hub id, a path, a `datasets.Dataset` or a list of dictionaries, got "
        f"{type(source).__name__}. Collect a stream with `datasets.Dataset.from_generator`."
    )


def _one_split(splits: Mapping[str, Any], split: str | None, prefer: Sequence[str], label: str) -> Any:
    known = sorted(map(str, splits))
    wanted = split or next((name for name in (known if len(splits) == 1 else prefer) if name in splits), None)
    if wanted is None or wanted not in splits:
        raise ValueError(f"`split` must be one of {known}, got {split!r} (of {label!r}).")
    if split is None and len(splits) > 1:
        logger.warning(f"Of {label!r}: read the split {wanted!r}, of {known}.")
    return splits[wanted]


def _open_path(source: str, name: str | None, revision: str | None, token: Any) -> Any:
    path = Path(source)
    if path.is_file() and _suffix(path) in (*_JSON, *_DELIMITERS):
        return _File(str(path.resolve()))
    datasets = _datasets()
    if path.is_file():
        if _suffix(path) == ".parquet":
            _check_parquet(source)
            return datasets.load_dataset("parquet", data_files=source)["train"]
        raise ValueError(f"`source` must be a json, jsonl, csv, tsv or parquet file, got {source!r}.")
    if path.is_dir():
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return datasets.load_from_disk(source)
        try:
            return _load_dataset(source, name=name)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"`source` {source!r} is a folder without data: it must hold json, jsonl, csv or parquet files, "
                "or what `save_to_disk` wrote."
            ) from error
    parts = source.split("/")
    if _suffix(path) in (*_JSON, *_DELIMITERS, ".parquet") or path.is_absolute() or parts[0].startswith("."):
        raise FileNotFoundError(f"`source` {source!r} is no file or directory.")
    return _load_dataset("/".join(parts[:2]), name=name, revision=revision, token=token, data_dir="/".join(parts[2:]))


def _check_parquet(source: str) -> None:
    """Read a file's schema, which shows what is none; `datasets` would log that and then fail in another way."""
    import pyarrow.parquet

    try:
        pyarrow.parquet.read_schema(source)
    except pyarrow.ArrowException as error:
        raise ValueError(f"`source` {source!r} cannot be read: {error} It must be parquet.") from error


def _load_dataset(source: str, **options: Any) -> Any:
    """`datasets.load_dataset`; in a csv the texts "null", "NA" and the like stay texts.

    Raises:
        ValueError: a file of it cannot be read, which `datasets` and what it reads with say in many kinds of errors.
    """
    datasets = _datasets()
    options = {option: value for option, value in options.items() if value}
    try:
        if hasattr(datasets.load_dataset_builder(source, **options).config, "keep_default_na"):
            options |= {"keep_default_na": False, "na_filter": False}
        return datasets.load_dataset(source, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:
        detail = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"`source` {source!r} cannot be read: {detail or type(error).__name__}") from error


# ---------------------------------------------------------------------- from rows to pairs


def _converted(rows: Any, form: PreferenceFormat, options: dict[str, Any]) -> Any:
    """All rows as a `datasets.Dataset`, the bad ones too, with what was found of each in three more columns."""
    datasets, features = _datasets(), _features(form)
    # what is cached on disk is found again by these values
    options = options | {"code": _code_stamp()}
    if isinstance(rows, _File):
        return _from_file(rows, features, options)
    if hasattr(rows, "map"):
        return rows.map(
            _convert_batch,
            batched=True,
            batch_size=_BATCH,
            with_indices=True,
            remove_columns=rows.column_names,
            features=features,
            fn_kwargs=options,
            desc="Reading preferences",
        )
    return datasets.Dataset.from_dict(_convert(rows, range(len(rows)), **options), features=features)


def _from_file(file: _File, features: Any, options: dict[str, Any]) -> Any:
    datasets, state = _datasets(), os.stat(file.path)
    options = options | {"path": file.path, "state": (state.st_size, state.st_mtime_ns)}
    try:
        return datasets.Dataset.from_generator(_generate, features=features, gen_kwargs=options)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _generate(path: str, state: tuple[int, int], **options: Any) -> Iterator[dict[str, Any]]:
    rows = enumerate(_File(path))
    while batch := list(islice(rows, _BATCH)):
        columns = _convert([row for _, row in batch], [index for index, _ in batch], **options)
        yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _features(form: PreferenceFormat) -> Any:
    datasets = _datasets()
    string = datasets.Value("string")
    text = datasets.List({"role": string, "content": string}) if form.messages else string
    numbers = {number: datasets.Value("float64") for number in NUMBERS if number in form.numbers}
    found = {_PROBLEM: string, _KEY: datasets.Value("int64"), _ORDER: datasets.Value("bool")}
    found[_REPEATED] = datasets.Value("bool")
    return datasets.Features({"prompt": text, "chosen": text, "rejected": text} | numbers | found)


def _convert_batch(batch: Mapping[str, list[Any]], indices: list[int], **options: Any) -> dict[str, list[Any]]:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    return _convert(rows, indices, **options)


def _convert(
    rows: Sequence[Any],
    indices: Sequence[int],
    columns: Mapping[str, type | None],
    objective: str | None,
    repeats: bool,
    label: str,
    skip: bool,
    code: str,
) -> dict[str, list[Any]]:
    form = formats.detect(columns, objective, repeats)
    names = ["prompt", "chosen", "rejected", *(number for number in NUMBERS if number in form.numbers)]
    blank = dict.fromkeys(names) | {_KEY: 0, _ORDER: False, _REPEATED: False}
    records = []
    for row, index in zip(rows, indices, strict=True):
        try:
            records.append(_record(row, form))
        except BadRow as error:
            if not skip:
                raise ValueError(
                    f"Row {index} of {label!r} is bad, {error}. Mend it, or leave such rows out: `skip_bad_rows=True`."
                ) from None
            records.append(blank | {_PROBLEM: error.reason})
    return {name: [record[name] for record in records] for name in (*names, *_FOUND)}


def _record(row: Any, form: PreferenceFormat) -> dict[str, Any]:
    """A pair, whether it is tied or repeats its prompt, and what tells it from others: its texts, and their order."""
    if isinstance(row, BadRow):
        raise row
    pair = form(row)
    prompt, chosen, rejected = (_canonical(pair[column]) for column in ("prompt", "chosen", "rejected"))
    scores = [pair[score] for score in SCORES if score in pair]
    problem = _IDENTICAL if chosen == rejected else _EQUAL if scores and scores[0] == scores[1] else ""
    key = _hash(json.dumps([prompt, *sorted((chosen, rejected))]))
    repeated = form.repeats and pair["chosen"] != form.read(row)[1]
    return pair | {_PROBLEM: problem, _KEY: key, _ORDER: chosen < rejected, _REPEATED: repeated}


def _canonical(text: Text) -> str:
    """The same string for equal texts, and for equal messages."""
    return text if isinstance(text, str) else "\0" + json.dumps([[m["role"], m["content"]] for m in text])


def _hash(text: str, seed: int = 0) -> int:
    """64 bits, the same in every process and on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "little", signed=True)


@cache
def _code_stamp() -> str:
    """Changes with the code that reads rows, so that what older code left in the cache is not used."""
    files = [Path(formats.__file__), Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


# ---------------------------------------------------------------------- what is said of them


def _reported(converted: Any, label: str) -> Any:
    """The pairs that are left, after saying what is not."""
    found = converted.select_columns(list(_FOUND)).with_format("numpy")[:]
    problems, good = found[_PROBLEM], found[_PROBLEM] == ""
    counts = Counter(problems.tolist())
    ties = {reason: counts.pop(reason) for reason in (_IDENTICAL, _EQUAL) if reason in counts}
    left = counts.pop("", 0)
    if counts:
        bad = ~np.isin(problems, ["", _IDENTICAL, _EQUAL])
        logger.warning(
            f"Skipped {_count(bad.sum(), 'bad row')} of {len(problems)} of {label!r}: {_listed(counts)}; "
            f"the first is row {int(bad.argmax())}."
        )
    if not left:
        raise ValueError(f"No pair of {label!r} is left: {_listed(counts | ties)}.")
    _report_pairs(ties, found[_KEY][good], found[_ORDER][good], int(found[_REPEATED].sum()), label)
    pairs = converted.remove_columns(list(_FOUND))
    return pairs if left == len(problems) else pairs.select(np.flatnonzero(good))


def _report_pairs(ties: Mapping[str, int], keys: np.ndarray, order: np.ndarray, repeated: int, label: str) -> None:
    signed = np.unique(np.stack([keys, order.astype(np.int64)]), axis=1)
    duplicates = len(keys) - signed.shape[1]
    contradictions = signed.shape[1] - len(np.unique(keys))
    said = [f"took the prompt off the responses of {_count(repeated, 'pair')}, which began with it"] if repeated else []
    said += [f"dropped {_count(sum(ties.values()), 'tied pair')} ({_listed(ties)})"] if ties else []
    said += [f"kept {_count(duplicates, 'duplicate pair')}"] if duplicates else []
    said += [f"kept {_count(contradictions, 'pair')} given in both orders"] if contradictions else []
    if said:
        logger.warning(f"Of {label!r}: {'; '.join(said)}. {_count(len(keys), 'pair')} left.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} with {reason}" for reason, number in counts.items())


# ---------------------------------------------------------------------- by prompt


def split_by_prompt(dataset: Any, eval_size: float = 0.1, seed: int = 0) -> tuple[Any, Any]:
    """Two parts without a common prompt, the same in every process.

    Prompts are ordered by a hash; the first ones are held out, until the size is nearest to the one asked for.

    Args:
        dataset: a `datasets.Dataset` or a list of rows with a `prompt`, a string or messages.
        eval_size: share of the rows to hold out, below 1, or their number.
        seed: for another split.

    Returns:
        rows to train on and rows held out, each as `dataset` is, in their order.

    Raises:
        ValueError: `eval_size` is out of range, or there are not two prompts.

    Example:

    ```python
    >>> rows = [{"prompt": prompt} for prompt in "aabbccdd"]
    >>> train, held_out = split_by_prompt(rows, eval_size=0.25)
    >>> len(train), len(held_out)
    (6, 2)

    ```
    """
    rows = len(dataset)
    whole = isinstance(eval_size, int) and not isinstance(eval_size, bool)
    target = eval_size if whole else eval_size * rows
    if isinstance(eval_size, bool) or not 0 < target < rows or (eval_size >= 1 and not whole):
        raise ValueError(
            f"`eval_size` must be a share between 0 and 1 or a number of rows below {rows}, got {eval_size!r}."
        )
    rank, sizes = _ranks(dataset, seed)
    if len(sizes) < 2:
        raise ValueError(f"All {rows} rows have the same prompt, so no split can keep it out of one part.")
    held_out = rank <= np.abs(np.cumsum(sizes)[:-1] - target).argmin()
    return _take(dataset, ~held_out), _take(dataset, held_out)


def folds_by_prompt(dataset: Any, folds: int = 5, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """Parts for cross-validation: each row is held out once, and no prompt is in both parts.

    Args:
        dataset: a `datasets.Dataset` or a list of rows with a `prompt`, a string or messages.
        folds: how many, at least 2.
        seed: for other folds.

    Returns:
        an iterator over (rows to train on, rows held out), each as `dataset` is, in their order.

    Raises:
        ValueError: there are fewer prompts than folds, or `folds` is below 2.
    """
    rank, sizes = _ranks(dataset, seed)
    if not 2 <= folds <= len(sizes):
        raise ValueError(f"`folds` must be between 2 and the number of prompts, {len(sizes)}; got {folds!r}.")
    parts = (rank % folds == fold for fold in range(folds))
    return ((_take(dataset, ~held_out), _take(dataset, held_out)) for held_out in parts)


def without_prompts_of(dataset: Any, held_out: Any) -> Any:
    """The rows whose prompts are none of those held out, so that these are of prompts that were not trained on.

    Args:
        dataset: a `datasets.Dataset` or a list of rows with a `prompt`, a string or messages.
        held_out: the same, of what is held out.

    Returns:
        rows as `dataset` is, in their order; perhaps none.

    Example:

    ```python
    >>> without_prompts_of([{"prompt": prompt} for prompt in "abca"], [{"prompt": "a"}])
    [{'prompt': 'b'}, {'prompt': 'c'}]

    ```
    """
    kept = ~np.isin(_prompt_hashes(dataset), _prompt_hashes(held_out))
    return dataset if kept.all() else _take(dataset, kept)


def _prompt_hashes(dataset: Any, seed: int = 0) -> np.ndarray:
    return np.fromiter((_hash(_canonical(row["prompt"]), seed) for row in _only(dataset, ["prompt"])), np.int64)


def _ranks(dataset: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's place of its prompt in the order of hashes, and the rows that each prompt has."""
    _, ranks, sizes = np.unique(_prompt_hashes(dataset, seed), return_inverse=True, return_counts=True)
    return ranks, sizes


def _only(dataset: Any, names: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    """The rows, with fewer columns where that is faster: arrow reads what it is asked for."""
    if hasattr(dataset, "select_columns"):
        return dataset.select_columns(list(names))
    return (dataset[place] for place in range(len(dataset)))


def _take(dataset: Any, chosen: np.ndarray) -> Any:
    places = np.flatnonzero(chosen)
    return dataset.select(places) if hasattr(dataset, "select") else [dataset[int(place)] for place in places]


def fingerprint(dataset: Any) -> str:
    """A short name of what is in a dataset, the same however it was loaded.

    Args:
        dataset: rows of text, messages or ids, as [`load_preferences`] or `tokenize_pairs` return them, or a list.

    Returns:
        16 hexadecimal digits of the SHA-256 of all rows in their order: texts (or ids), margins, weights and scores.

    Example:

    ```python
    >>> fingerprint([{"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "source": "TRL"}])
    'b363de1cdb853218'

    ```
    """
    digest = hashlib.sha256()
    names = [name for name in _CONTENT if name in (getattr(dataset, "column_names", None) or _CONTENT)]
    for row in _only(dataset, names):
        content = {name: _comparable(name, row[name]) for name in names if row.get(name) is not None}
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def _comparable(name: str, value: Any) -> Any:
    if name.endswith("_ids"):
        return [int(token) for token in value]
    return _canonical(value) if name in ("prompt", "chosen", "rejected") else float(value)
