"""Systems and prompts to JSONL that survives: killed at any moment and run again, it ends as if never interrupted.

A system is any callable `system(prompts, seed) -> replies`; [`guided`] and [`from_decoder`] make some. One file holds
one run of one system under one seed, a line for each sample; beside it, `NAME.manifest.json` says how it came about.
What is drawn depends on the run's seed and on the rows of a batch alone, and how rows are batched on all rows alone, so
a resumed run draws what it would have drawn.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

System = Callable[..., Sequence[Any]]
Row = dict[str, Any]

# fields of a line, in their order; columns of the input follow, then whatever the system says of a sample
FIELDS = ("id", "system", "seed", "sample", "prompt", "reply")
_GIVEN = ("id", "prompt")  # by the input
_PACKAGES = ("genarm-hf", "torch", "transformers", "peft", "numpy")
_SHOWN = 5  # differences in an error


def run(
    system: System,
    prompts: Sequence[Any],
    path: str | Path,
    *,
    name: str,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 16,
    batch_tokens: int | None = None,
    length: Callable[[Any], int] | None = None,
    columns: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> list[Row]:
    """Let a system reply to prompts, and keep every reply in a file as soon as its batch is there.

    Args:
        system: called as `system(prompts, seed, **columns)` with the prompts of a batch and a seed that it must draw
            everything from; returns as many replies: strings, or mappings with `reply` and fields of their own for the
            line. A reply of None stands for a failure that the mapping explains (`error`, say).
        prompts: strings, chat messages, or mappings with `prompt`, perhaps `id`, and columns that are carried over.
            Without ids, rows are numbered.
        path: the file, `.jsonl`. What it holds already is kept, and only the rest is done.
        name: of the system, in the field `system`.
        seed: of the run.
        samples: replies to each prompt.
        batch_size: most prompts at once.
        batch_tokens: most tokens at once, padding included; rows are then sorted by length, the longest first.
        length: tokens of a prompt, for `batch_tokens`: those it has and those it gets.
        columns: names of columns that the system wants too, each as a list (an `alpha` for each row, say).
        settings: anything json can hold that decides the replies: model, alpha, temperature. A run does not go on
            under others.
        progress: told of samples done and of all, once at the start and after each batch.

    Returns:
        the lines, in the order of the file.

    Raises:
        ValueError: arguments or rows are bad; or the file is of other settings or prompts, and the message says which.
        BlockingIOError: another process is writing to the file.
    """
    rows = as_rows(prompts, columns)
    path = Path(path)
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}.")
    batches = _batches(rows, batch_size, batch_tokens, length)
    manifest = _manifest(rows, settings, name, seed, samples, (batch_size, batch_tokens), columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as file:
        lines = _resume(file, path, manifest, rows)
        done, total = {(line["id"], line["sample"]) for line in lines}, samples * len(rows)
        progress(len(done), total)
        for sample in range(samples):
            for batch in batches:
                missing = [index for index, row in enumerate(batch) if (row["id"], sample) not in done]
                if missing:
                    # all of a batch, even where some of it is there: what is drawn depends on who is drawn together
                    fresh = _replies(system, batch, columns, name, seed, sample)
                    lines += _append(file, [fresh[index] for index in missing])
                    done.update((batch[index]["id"], sample) for index in missing)
                    progress(len(done), total)
    return lines


def read(path: str | Path) -> list[Row]:
    """The lines of a run, or of all runs in a folder (`*.jsonl`, by name). A line that is being written is left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [line for file in files for line in _whole_lines(file.read_bytes())[0]]


def as_rows(prompts: Sequence[Any], columns: Sequence[str] = ()) -> list[Row]:
    """Prompts as mappings with `id`, `prompt` and columns, checked.

    Args:
        prompts: as [`run`] takes them.
        columns: that every row must have.

    Raises:
        ValueError: there is none, an id comes twice, a column is missing or has the name of a field of ours.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"`prompts` must be a list of prompts with one at least, got {prompts!r:.80}.")
    rows = [_row(prompt, index) for index, prompt in enumerate(prompts)]
    seen: set[Any] = set()
    for row in rows:
        taken = [field for field in FIELDS if field in row and field not in _GIVEN]
        lacking = [column for column in columns if column not in row]
        if taken or lacking or row["id"] in seen:
            problem = (
                f"has the column {taken[0]!r}, which lines use themselves: rename it"
                if taken
                else f"lacks the column {lacking[0]!r}"
                if lacking
                else "has the id of another one"
            )
            raise ValueError(f"The row with id {row['id']!r} {problem}.")
        seen.add(row["id"])
    return rows


def _row(prompt: Any, index: int) -> Row:
    if not isinstance(prompt, Mapping):
        return {"id": index, "prompt": prompt}
    if not prompt.get("prompt"):
        raise ValueError(f"`prompts[{index}]` has no `prompt`; its columns are {list(prompt)}.")
    identity = prompt.get("id", index)
    if not isinstance(identity, (int, str)):
        raise ValueError(f"`id` of `prompts[{index}]` must be a string or an integer, got {identity!r}.")
    rest = {column: value for column, value in prompt.items() if column not in _GIVEN}
    return {"id": identity, "prompt": prompt["prompt"], **rest}


# ---------------------------------------------------------------------- what is done together, and from which seed


def _batches(
    rows: list[Row], batch_size: int, batch_tokens: int | None, length: Callable[[Any], int] | None
) -> list[list[Row]]:
    """Rows that are done together: in their order, or by length where tokens are limited."""
    if batch_size < 1 or (batch_tokens is not None and (batch_tokens < 1 or length is None)):
        raise ValueError(
            f"`batch_size` and `batch_tokens` must be at least 1, and `batch_tokens` needs `length`; got {batch_size}, "
            f"{batch_tokens} and {length}."
        )
    if batch_tokens is None or length is None:
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    sizes = [length(row["prompt"]) for row in rows]
    batches: list[list[Row]] = []
    room = 0
    for index in sorted(range(len(rows)), key=lambda index: -sizes[index]):
        if not room:
            batches.append([])
            room = min(batch_size, max(batch_tokens // max(sizes[index], 1), 1))  # the first is the longest
        batches[-1].append(rows[index])
        room -= 1
    return batches


def batch_seed(seed: int, sample: int, ids: Sequence[Any]) -> int:
    """The seed of a batch: another one for every seed of a run, sample and batch, below 2**31.

    Args:
        seed: of the run.
        sample: which reply to each prompt.
        ids: of the rows.

    Example:
        >>> batch_seed(0, 0, [0, 1]) != batch_seed(0, 1, [0, 1])
        True
    """
    return int.from_bytes(hashlib.sha256(_bytes([seed, sample, list(ids)])).digest()[:4]) >> 1


def _replies(system: System, batch: list[Row], columns: Sequence[str], name: str, seed: int, sample: int) -> list[Row]:
    """The lines of a batch."""
    wanted = {column: [row[column] for row in batch] for column in columns}
    drawn = batch_seed(seed, sample, [row["id"] for row in batch])
    replies = system([row["prompt"] for row in batch], drawn, **wanted)
    if isinstance(replies, str) or len(replies) != len(batch):
        got = "a string" if isinstance(replies, str) else f"{len(replies)} replies"
        raise ValueError(f"System {name!r} must give one reply a prompt: got {got} to {len(batch)} prompts.")
    return [_line(row, reply, name, seed, sample) for row, reply in zip(batch, replies, strict=True)]


def _line(row: Row, reply: Any, name: str, seed: int, sample: int) -> Row:
    said = dict(reply) if isinstance(reply, Mapping) else {"reply": reply}
    if "reply" not in said or not isinstance(said["reply"], (str, type(None))):
        raise ValueError(f"System {name!r} must reply with a string, or a mapping with `reply`; got {reply!r:.80}.")
    clash = sorted((set(said) & {*FIELDS, *row}) - {"reply"})
    if clash:
        raise ValueError(f"System {name!r} says {clash[0]!r} of a sample, which is a field or column already.")
    own = {"system": name, "seed": seed, "sample": sample, "prompt": row["prompt"], "reply": said.pop("reply")}
    return {"id": row["id"], **own} | {k: v for k, v in row.items() if k not in _GIVEN} | said


# ---------------------------------------------------------------------- the file


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, for this process alone; the lock goes with the process, however it ends."""
    with open(path, "a+b") as file:
        try:
            import fcntl
        except ImportError:  # Windows: no lock
            pass
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, "Another process is writing to this file", str(path)) from error
        yield file


def _append(file: IO[bytes], lines: list[Row]) -> list[Row]:
    """Write whole lines, which are on the disk when this returns; on an error (a full disk) none of them stays."""
    text = b"".join(_bytes(line) + b"\n" for line in lines)
    end = file.seek(0, os.SEEK_END)
    try:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), end)
        raise
    return [json.loads(line) for line in text.splitlines()]


def _resume(file: IO[bytes], path: Path, manifest: Row, rows: list[Row]) -> list[Row]:
    """The lines that are there; what was half written is dropped. A new file gets its manifest first."""
    file.seek(0)
    lines, size = _whole_lines(file.read())
    beside = path.with_suffix(".manifest.json")
    if beside.exists():
        _check_same(json.loads(beside.read_text(encoding="utf-8")), manifest, lines, rows, path)
    elif lines:
        raise ValueError(f"{path} has lines but no {beside.name} that says whose. Choose another file.")
    else:
        _write_whole(beside, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    file.truncate(size)
    return lines


def _whole_lines(data: bytes) -> tuple[list[Row], int]:
    """Lines up to the last that is complete, and how many bytes they are.

    Raises:
        ValueError: another line than the last is broken: it was not a kill that broke it.
    """
    size = data.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(data[:size].splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"Line {number} is not JSON ({error}): {line[:80]!r}. Mend it or delete the file."
            ) from error
    return lines, size


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _bytes(value: Any) -> bytes:
    # halves of emojis, as broken input has them, must not end a job
    return _json(value).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------------- the manifest


def _manifest(
    rows: list[Row],
    settings: Mapping[str, Any] | None,
    name: str,
    seed: int,
    samples: int,
    batch: tuple[int, int | None],
    columns: Sequence[str],
) -> Row:
    """How the file came about; as json reads it, to be compared with what was read."""
    content = _bytes([list(row.items()) for row in rows])
    manifest = {
        "system": name,
        "seed": seed,
        "samples": samples,
        "batch_size": batch[0],
        "batch_tokens": batch[1],
        "columns": list(columns),
        "settings": dict(settings or {}),
        "prompts": {"count": len(rows), "sha256": hashlib.sha256(content).hexdigest()},
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES},
    }
    return json.loads(_json(manifest))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_same(found: Row, manifest: Row, lines: list[Row], rows: list[Row], path: Path) -> None:
    """Refuse to go on with a file that is of something else.

    Raises:
        ValueError: it is, and how.
    """
    versions = found.get("versions"), manifest["versions"]
    if versions[0] != versions[1]:
        changes = _differences(*versions)
        logger.warning(f"{path} was begun with other versions, and its rest may differ: {'; '.join(changes)}.")
    kept = {key: value for key, value in found.items() if key not in ("versions", "prompts")}
    wanted = {key: value for key, value in manifest.items() if key not in ("versions", "prompts")}
    changes = _differences(kept, wanted)
    if found.get("prompts") != manifest["prompts"]:
        changes += [_prompt_difference(found, manifest, lines, rows)]
    if changes:
        shown = "".join(f"\n- {change}" for change in changes[:_SHOWN])
        more = f"\n- and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ValueError(
            f"{path} is of another run and does not go on as this one. What changed:{shown}{more}\nChoose another "
            "file, or delete this one and its manifest."
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs, by name, as `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        prefix = f"{name}." if name else ""
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{prefix}{key}")]
    return [] if old == new else [f"{name}: {_json(old):.80} -> {_json(new):.80}"]


def _prompt_difference(found: Row, manifest: Row, lines: list[Row], rows: list[Row]) -> str:
    """The first prompt that differs, as far as lines tell; their order or number otherwise."""
    given = {row["id"]: row for row in rows}
    for line in lines:
        row = given.get(line["id"])
        if row is None:
            return f"prompts: id {line['id']!r} is not there any more"
        for column, value in row.items():
            if _json(line.get(column)) != _json(value):
                return f"prompts: id {line['id']!r}, {column}: {_json(line.get(column)):.80} -> {_json(value):.80}"
    counts = found.get("prompts", {}).get("count"), manifest["prompts"]["count"]
    if counts[0] != counts[1]:
        return f"prompts: {counts[0]} -> {counts[1]} rows"
    return f"prompts: other rows than before, or in another order, none of them among the {len(lines)} lines done"
