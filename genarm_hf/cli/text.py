"""Plain text for terminals of any width: tables, and texts side by side."""

import shutil
import textwrap
from collections.abc import Sequence

_GAP = "  "
_NARROWEST_COLUMN = 26  # characters; narrower columns are hard to read, and stacked texts are easier


def terminal_width() -> int:
    """Characters a line may have: the terminal's (or `COLUMNS`), 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with right-aligned columns.

    Example:
        >>> print(table(["alpha", "reward"], [["0", "1.25"], ["0.5", "2.50"]]))
        alpha  reward
        -----  ------
            0    1.25
          0.5    2.50
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(_GAP.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def side_by_side(titles: Sequence[str], texts: Sequence[str], width: int | None = None) -> str:
    """Texts in columns under their titles, or one below the other where the terminal is too narrow.

    Args:
        titles: one a text.
        texts: what to show.
        width: characters of a line; None: the terminal's.

    Example:
        >>> print(side_by_side(["before", "after"], ["one two", "three"], width=60))
        before                         after
        one two                        three
        >>> print(side_by_side(["before", "after"], ["one two", "three"], width=40))
        before
            one two
        after
            three
    """
    width = terminal_width() if width is None else width
    column = (width - len(_GAP) * (len(texts) - 1)) // max(len(texts), 1)
    if column < _NARROWEST_COLUMN:
        return stacked(titles, texts, width)
    blocks = [[title[:column], *_wrap(text, column)] for title, text in zip(titles, texts, strict=True)]
    height = max(map(len, blocks))
    padded = [block + [""] * (height - len(block)) for block in blocks]
    return "\n".join(_GAP.join(cell.ljust(column) for cell in line).rstrip() for line in zip(*padded, strict=True))


def stacked(titles: Sequence[str], texts: Sequence[str], width: int | None = None) -> str:
    """Texts below their titles, indented."""
    width = terminal_width() if width is None else width
    lines: list[str] = []
    for title, text in zip(titles, texts, strict=True):
        lines += [title, *(f"    {line}" for line in _wrap(text, max(width - 4, 20)))]
    return "\n".join(lines)


def paragraph(text: str, indent: int = 0, hanging: int = 0) -> str:
    """A text wrapped to the terminal.

    Args:
        text: one paragraph.
        indent: spaces before every line.
        hanging: further spaces before every line but the first.
    """
    later = " " * (indent + hanging)
    return textwrap.fill(text, terminal_width(), initial_indent=" " * indent, subsequent_indent=later)


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""]]
