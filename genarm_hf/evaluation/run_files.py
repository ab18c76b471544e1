"""The files of a run: whole lines whatever happens, a part for each process, one file in order at the end.

A process appends to a file that is its own: the first to `NAME.jsonl`, the others to `NAME.jsonl.part-1` and so on.
They never wait for one another. Whoever finds all lines there puts them in order into `NAME.jsonl`, by one rename, and
removes the parts. `NAME.manifest.json` says whose lines these are.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from .manifest import Row, check_same, to_bytes

Key = tuple[Any, int]
"""What tells a line: the id of its row, and which sample it is."""

_PART = ".part-"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # what file systems without locks say


def own_file(path: Path, rank: int) -> Path:
    """Where a process writes."""
    return path if rank == 0 else path.with_name(f"{path.name}{_PART}{rank}")


def manifest_file(path: Path) -> Path:
    """Where the manifest is."""
    return path.with_suffix(".manifest.json")


def files(path: Path) -> list[Path]:
    """All files with lines of a run, its own first."""
    prefix = path.name + _PART
    parts = [one for one in path.parent.iterdir() if one.name.startswith(prefix) and one.name[len(prefix) :].isdigit()]
    return [path] * path.exists() + sorted(parts)


def lines(path: Path) -> Iterator[Row]:
    """Lines of all files of a run, one after the other. What is being written is left out."""
    for one in files(path):
        with open(one, "rb") as file:
            yield from (line for _, _, line in whole_lines(file))


def whole_lines(file: IO[bytes]) -> Iterator[tuple[int, int, Row]]:
    """Where a line starts and ends, and the line, up to the last that is complete.

    Raises:
        ValueError: another line than the last is broken: it was not a kill that broke it.
    """
    start = 0
    for number, text in enumerate(file, start=1):
        if not text.endswith(b"\n"):
            return
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"Line {number} is not JSON ({error}): {text[:80]!r}. Mend it or delete the file."
            ) from error
        yield start, start + len(text), line
        start += len(text)


# ---------------------------------------------------------------------- one process


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to append to, for this process alone; the lock goes with the process, however it ends.

    Raises:
        BlockingIOError: another process is writing to it.
    """
    # unbuffered: what could not be written must not be tried again when the file is closed
    with open(path, "a+b", buffering=0) as file:
        try:
            _lock(file, wait=False)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "Another process is writing to this file", str(path)) from error
        yield file


def _lock(file: IO[Any], wait: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def resume(file: IO[bytes], path: Path, manifest: Row, rows: Sequence[Row], rank: int) -> set[Key]:
    """What is done; of the process's own file, what was half written is dropped. A new run gets its manifest first.

    Args:
        file: the process's own, opened.
        path: of the run.
        manifest: of the run.
        rows: that it is about.
        rank: of the process.

    Raises:
        ValueError: the files are of another run.
    """
    beside = manifest_file(path)
    found = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    if found is None and any(True for _ in lines(path)):
        raise ValueError(f"{path} has lines but no {beside.name} that says whose. Choose another file.")
    done = _done(path)
    if done and found is not None:
        check_same(found, manifest, lines(path), rows, path)
    elif found != manifest:  # where nothing is done yet, nothing holds anyone to what was asked for
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        write_whole(beside, lambda draft: draft.write(text.encode("utf-8", "surrogatepass")), str(rank))
    with open(file.name, "rb") as content:
        end = max((end for _, end, _ in whole_lines(content)), default=0)
        if end < content.seek(0, os.SEEK_END):
            file.truncate(end)
    return done


def _done(path: Path) -> set[Key]:
    while True:
        try:
            return {_key(line) for line in lines(path)}
        except FileNotFoundError:  # another process has just put all in order, and removed the parts
            continue


def append(file: IO[bytes], rows: Sequence[Row]) -> None:
    """Write whole lines, which are on the disk when this returns; on an error (a full disk) none of them stays.

    Raises:
        OSError: as said.
    """
    text = memoryview(b"".join(to_bytes(row) + b"\n" for row in rows))
    end = file.seek(0, os.SEEK_END)
    try:
        while text:
            text = text[file.write(text) :]
        os.fsync(file.fileno())
    except OSError as error:
        os.ftruncate(file.fileno(), end)
        raise _still_there(error, file.name) from error


def _still_there(error: OSError, path: str | Path) -> OSError:
    said = f"{error.strerror}; what was done before is kept, and the same run goes on from there"
    return OSError(error.errno, said, str(path))


def write_whole(path: Path, write: Callable[[IO[bytes]], Any], draft: str) -> None:
    """A file that appears whole or not at all.

    Args:
        path: the file.
        write: writes its content.
        draft: tells its draft from those of other processes; the next draft of that name takes the place of one that a
            kill left.

    Raises:
        OSError: a disk is full. What was there stays.
    """
    place = path.with_name(f".{path.name}.draft-{draft}")
    try:
        with open(place, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(place, path)
    except OSError as error:
        place.unlink(missing_ok=True)
        raise _still_there(error, path) from error


# ---------------------------------------------------------------------- all processes


def put_in_order(path: Path, keys: Sequence[Key]) -> bool:
    """Once all lines are there, leave one file that has them in order.

    Args:
        path: of the run.
        keys: of all its lines, in order.

    Returns:
        whether all are there.
    """
    with open(manifest_file(path), "r+b") as lock:
        # one process at a time: the last to come sees what all others have written
        _lock(lock, wait=True)
        parts = files(path)
        with ExitStack() as stack:
            handles = [stack.enter_context(open(part, "rb")) for part in parts]
            found = [(_key(line), handle, start) for handle in handles for start, _, line in whole_lines(handle)]
            places = {key: (handle, start) for key, handle, start in found}
            if any(key not in places for key in keys):
                return False
            if [key for key, handle, _ in found if handle.name == str(path)] != list(keys):
                write_whole(path, lambda draft: _copy([places[key] for key in keys], draft, stack), "ordered")
        for part in parts:
            if part != path:
                part.unlink()
    return True


def _key(line: Row) -> Key:
    return line["id"], line["sample"]


def _copy(places: Sequence[tuple[IO[bytes], int]], draft: IO[bytes], opened: ExitStack) -> None:
    for handle, start in places:
        handle.seek(start)
        draft.write(handle.readline())
    opened.close()  # Windows replaces no file that is open
