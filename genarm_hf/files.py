"""Results appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write a file or folder to, which becomes `path` when the block ends without an error.

    What was at `path` stays there until then, and nothing is left behind by an error or Ctrl-C. A device or a pipe
    (`/dev/null`, `/dev/stdout`) is written to and not replaced.

    Args:
        path: where the result shall be; parents are created.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            yield (draft := Path(scratch) / path.name)
            path.write_bytes(draft.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside its destination, so that moving it there is a rename
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        yield draft
        if path.is_dir():
            os.rename(path, Path(scratch) / "replaced")
        os.replace(draft, path)
