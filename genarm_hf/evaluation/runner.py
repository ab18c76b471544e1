"""Systems and prompts to JSONL that survives: killed at any moment and run again, it ends as if never interrupted.

A system is any callable `system(prompts, seed) -> replies`; [`guided`] and [`from_decoder`] make some. One file holds
one run of one system under one seed, a line for each sample; beside it, `NAME.manifest.json` says how it came about.
What is drawn depends on the run's seed and on the rows of a batch alone, and how rows are batched on all rows alone, so
a resumed run draws what it would have drawn, and so do several processes that share the batches.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import run_files
from .manifest import Row, manifest_of, to_bytes

System = Callable[..., Sequence[Any]]
Progress = Callable[[int, int], Any]

# fields of a line, in their order; columns of the input follow, then whatever the system says of a sample
FIELDS = ("id", "system", "seed", "sample", "prompt", "reply")
_GIVEN = ("id", "prompt")  # by the input
FAILED = "error"
"""Column of a row that no system is asked about: it says why, and stands in the row's line, whose reply is None."""


@dataclass(frozen=True)
class Plan:
    """What a run is, beside its system and prompts; the arguments of [`run`]."""

    name: str
    seed: int = 0
    samples: int = 1
    batch_size: int = 16
    batch_tokens: int | None = None
    length: Callable[[Any], int] | None = None
    columns: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1


def _silent(done: int, total: int) -> None:
    pass


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
    rank: int = 0,
    world_size: int = 1,
    progress: Progress = _silent,
) -> list[Row]:
    """Let a system reply to prompts, and keep every reply in a file as soon as its batch is there.

    Args:
        system: called as `system(prompts, seed, **columns)` with the prompts of a batch and a seed that it must draw
            everything from; returns as many replies: strings, or mappings with `reply` and fields of their own for the
            line. A reply of None stands for a failure that the mapping explains (`error`, say).
        prompts: strings, chat messages, or mappings with `prompt`, perhaps `id`, and columns that are carried over.
            Without ids, rows are numbered. A row with the column `error` is not asked about: its line says why.
        path: the file, `.jsonl`. What it holds already is kept, and only the rest is done.
        name: of the system, in the field `system`.
        seed: of the run.
        samples: replies to each prompt.
        batch_size: most prompts at once.
        batch_tokens: most tokens at once, padding included; rows are then sorted by length, the longest first.
        length: tokens of a prompt, for `batch_tokens`: those it has and those it gets.
        columns: names of columns that the system wants too, each as a list (an `alpha` for each row, say).
        settings: anything json can hold that decides the replies: model, alpha, temperature. A run does not go on
            under others. They are added to `system.settings`, which ready-made systems have.
        rank: which of `world_size` processes this is. Each does its share of the batches in a file of its own, next to
            `path`; who finishes last puts all lines into `path`. A run may go on with another number of processes.
        world_size: how many processes share the run, all with the same arguments.
        progress: told of samples done and of all (of this process's share), once at the start and after each batch.

    Returns:
        the lines that are there, in the order of the file: all first samples as rows come, all second ones, ...

    Raises:
        ValueError: arguments or rows are bad; or the file is of other settings or prompts, and the message says which.
        BlockingIOError: another process is writing to the file.
        OSError: a disk is full. What was done before is kept.
    """
    plan = Plan(
        name, seed, samples, batch_size, batch_tokens, length, columns, settings or {}, rank=rank, world_size=world_size
    )
    fill(system, prompts, path, plan, progress)
    return list(run_files.lines(Path(path)))


def fill(system: System, prompts: Sequence[Any], path: str | Path, plan: Plan, progress: Progress = _silent) -> bool:
    """[`run`] that does not read the lines, which may be many.

    Args:
        system: as in [`run`].
        prompts: as in [`run`].
        path: as in [`run`].
        plan: its other arguments.
        progress: as in [`run`].

    Returns:
        whether all lines of all processes are there, and so in order.
    """
    rows, path = as_rows(prompts, plan.columns), Path(path)
    _check(plan, path)
    tasks = _tasks(rows, plan)
    manifest = _manifest(rows, {**getattr(system, "settings", {}), **plan.settings}, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    with run_files.opened(run_files.own_file(path, plan.rank)) as file:
        done = run_files.resume(file, path, manifest, rows, plan.rank)
        share = [(row["id"], sample) for sample, batch in tasks for row in batch]
        finished, total = sum(key in done for key in share), len(share)
        progress(finished, total)
        for sample, batch in tasks:
            missing = [index for index, row in enumerate(batch) if (row["id"], sample) not in done]
            if missing:
                # all of a batch, even where some of it is there: what is drawn depends on who is drawn together
                fresh = _replies(system, batch, plan, sample)
                run_files.append(file, [fresh[index] for index in missing])
                finished += len(missing)
                progress(finished, total)
    return run_files.put_in_order(path, [(row["id"], sample) for sample in range(plan.samples) for row in rows])


def _check(plan: Plan, path: Path) -> None:
    if plan.samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {plan.samples}.")
    if not 0 <= plan.rank < plan.world_size:
        raise ValueError(
            f"`rank` must be from 0 to `world_size` - 1, got {plan.rank} with a `world_size` of {plan.world_size}."
        )
    if path.exists() and not path.is_file():
        raise ValueError(f"`path` must be a file, and {str(path)!r} is a folder or a device.")


def read(path: str | Path) -> list[Row]:
    """The lines of a run, or of all runs in a folder (`*.jsonl`, by name). A line that is being written is left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    path = Path(path)
    found: list[Row] = []
    for one in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        with open(one, "rb") as file:
            found += [line for _, _, line in run_files.whole_lines(file)]
    return found


def as_rows(prompts: Sequence[Any], columns: Sequence[str] = ()) -> list[Row]:
    """Prompts as mappings with `id`, `prompt` and columns, checked.

    Args:
        prompts: as [`run`] takes them.
        columns: that every row must have, but for those with an `error`.

    Raises:
        ValueError: there is none, an id comes twice, a column is missing or has the name of a field of ours.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"`prompts` must be a list of prompts with one at least, got {prompts!r:.80}.")
    rows = [_row(prompt, index) for index, prompt in enumerate(prompts)]
    seen: set[Any] = set()
    for row in rows:
        taken = [field for field in FIELDS if field in row and field not in _GIVEN]
        lacking = [column for column in columns if column not in row and FAILED not in row]
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
    if not prompt.get("prompt") and FAILED not in prompt:
        raise ValueError(f"`prompts[{index}]` has no `prompt`; its columns are {list(prompt)}.")
    identity = prompt.get("id", index)
    if not isinstance(identity, (int, str)):
        raise ValueError(f"`id` of `prompts[{index}]` must be a string or an integer, got {identity!r}.")
    rest = {column: value for column, value in prompt.items() if column not in _GIVEN}
    return {"id": identity, "prompt": prompt.get("prompt"), **rest}


# ---------------------------------------------------------------------- what is done together, and from which seed


def _tasks(rows: list[Row], plan: Plan) -> list[tuple[int, list[Row]]]:
    """What this process does: samples of batches. Which rows are together does not depend on the processes."""
    failed = [row for row in rows if FAILED in row]
    asked = [row for row in rows if FAILED not in row]
    batches = _batches(asked, plan.batch_size, plan.batch_tokens, plan.length)
    batches = [failed, *batches] if failed else batches
    return [(sample, batch) for sample in range(plan.samples) for batch in batches][plan.rank :: plan.world_size]


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
    return int.from_bytes(hashlib.sha256(to_bytes([seed, sample, list(ids)])).digest()[:4]) >> 1


def _replies(system: System, batch: list[Row], plan: Plan, sample: int) -> list[Row]:
    """The lines of a batch."""
    if FAILED in batch[0]:
        return [_line(row, None, plan, sample) for row in batch]
    wanted = {column: [row[column] for row in batch] for column in plan.columns}
    drawn = batch_seed(plan.seed, sample, [row["id"] for row in batch])
    replies = system([row["prompt"] for row in batch], drawn, **wanted)
    if isinstance(replies, str) or len(replies) != len(batch):
        got = "a string" if isinstance(replies, str) else f"{len(replies)} replies"
        raise ValueError(f"System {plan.name!r} must give one reply a prompt: got {got} to {len(batch)} prompts.")
    return [_line(row, reply, plan, sample) for row, reply in zip(batch, replies, strict=True)]


def _line(row: Row, reply: Any, plan: Plan, sample: int) -> Row:
    said = dict(reply) if isinstance(reply, Mapping) else {"reply": reply}
    if "reply" not in said or not isinstance(said["reply"], (str, type(None))):
        raise ValueError(
            f"System {plan.name!r} must reply with a string, or a mapping with `reply`; got {reply!r:.80}."
        )
    clash = sorted((set(said) & {*FIELDS, *row}) - {"reply"})
    if clash:
        raise ValueError(f"System {plan.name!r} says {clash[0]!r} of a sample, which is a field or column already.")
    own = {
        "system": plan.name,
        "seed": plan.seed,
        "sample": sample,
        "prompt": row["prompt"],
        "reply": said.pop("reply"),
    }
    return {"id": row["id"], **own} | {k: v for k, v in row.items() if k not in _GIVEN} | said


def _manifest(rows: list[Row], settings: Mapping[str, Any], plan: Plan) -> Row:
    return manifest_of(
        rows,
        system=plan.name,
        seed=plan.seed,
        samples=plan.samples,
        batch_size=plan.batch_size,
        batch_tokens=plan.batch_tokens,
        columns=list(plan.columns),
        settings=dict(settings),
    )
