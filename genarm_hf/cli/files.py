"""Results appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from .parsing import UsageError


def check_figure(path: str) -> None:
    """Refuse a figure that cannot be drawn, before anything runs for it.

    Raises:
        UsageError: the file's ending is none that is drawn, or matplotlib is missing.
    """
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"`--figure` must end in .png, .svg or .pdf, got {path!r}.")
    if find_spec("matplotlib") is None:
        raise UsageError("`--figure` needs matplotlib: pip install 'genarm-hf[plot]'.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write a file or folder to, which becomes `path` when the block ends without an error.

    What was at `path` stays there until then, and nothing is left behind by an error or Ctrl-C.

    Args:
        path: where the result shall be; parents are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside its destination, so that moving it there is a rename
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        yield draft
        if path.is_dir():
            os.rename(path, Path(scratch) / "replaced")
        os.replace(draft, path)
