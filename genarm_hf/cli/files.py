"""What is checked of a file before anything runs for it."""

from importlib.util import find_spec
from pathlib import Path

from .parsing import UsageError


def check_place(option: str, path: str) -> None:
    """Refuse a place below a file, where nothing can be written once the work is done.

    Raises:
        UsageError: as said.
    """
    for parent in Path(path).parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"`{option}` {path!r} would be in a folder, and {str(parent)!r} is a file.")


def check_figure(path: str) -> None:
    """Refuse a figure that cannot be drawn, before anything runs for it.

    Raises:
        UsageError: the file's ending is none that is drawn, or matplotlib is missing.
    """
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"`--figure` must end in .png, .svg or .pdf, got {path!r}.")
    if find_spec("matplotlib") is None:
        raise UsageError("`--figure` needs matplotlib: pip install 'genarm-hf[plot]'.")
