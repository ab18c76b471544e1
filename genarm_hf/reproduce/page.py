"""One page of all claims, from what is on disk: nothing is measured here.

Beside it goes a folder a claim: its figure, its table, and its samples, packed, so that numbers can be traced.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import written_whole
from .claims import CLAIMS, FIGURE, TABLE
from .samples import Row

_HEAD = """# Results: the paper's claims, measured here

This page is written by `genarm-hf reproduce report`; do not edit it. How to run everything, and what is measured how:
[reproduce](HOWTO).

Each number is the mean of the field that its column names, over those lines of the claim's samples that have the
settings of its row, if it is not said otherwise. In brackets: 95 % intervals by the bootstrap over prompts and seeds.
The samples are beside this page. Prompts and seeds behind "measured with" are those that the lab has; most claims use
fewer, as the column `samples` and the samples themselves show.
"""


def write_page(output: Path, page: Path, how_to: str = "how-to/reproduce.md") -> list[str]:
    """Write a page of all claims in a folder of results; figures, tables and samples are copied beside it.

    Args:
        output: folder with a folder a claim.
        page: the markdown file; what it shows and what it rests on go to a folder of its name without the ending.
        how_to: link to how it is done.

    Returns:
        names of the claims that are on it.

    Raises:
        ValueError: the folder has no claim's table.
    """
    names = [name for name in CLAIMS if (output / name / TABLE).is_file()]
    if not names:
        raise ValueError(f"`output` {str(output)!r} has no {TABLE} of a claim; run `genarm-hf reproduce` first.")
    claims = [json.loads((output / name / TABLE).read_text(encoding="utf-8")) for name in names]
    answers = markdown(["claim", "here"], [[_heading(found), found["answer"]] for found in claims])
    parts = [_HEAD.replace("HOWTO", how_to), *answers, ""]
    for name, found in zip(names, claims, strict=True):
        parts.append(section(found, _published(output / name, page)))
    with written_whole(page) as draft:
        draft.write_text("\n".join(parts), encoding="utf-8")
    return names


def _published(claim: Path, page: Path) -> dict[str, str]:
    """Copy what a claim's folder has, and link to it.

    Returns:
        Names of files in the claim's folder to links from the page.
    """
    links = {}
    for file in sorted([*claim.glob("*.jsonl"), claim / FIGURE, claim / TABLE]):
        if file.is_file():
            packed = file.suffix == ".jsonl"
            copy = page.parent / page.stem / claim.name / (file.name + ".gz" if packed else file.name)
            content = file.read_bytes()
            with written_whole(copy) as draft:
                draft.write_bytes(gzip.compress(content, mtime=0) if packed else content)
            links[file.name] = copy.relative_to(page.parent).as_posix()
    return links


def section(found: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """A claim's part of the page.

    Args:
        found: what its `table.json` holds.
        links: from names of its files to where they are, seen from the page.
    """
    lines = [f"## {_heading(found)}", "", f"The paper: {found['paper']}", ""]
    lines += [f"- {finding}" for finding in found["findings"]]
    lines += ["", *([f"![{found['title']}]({links[FIGURE]})", ""] if FIGURE in links else [])]
    for title, header, cells in tables(found["rows"]):
        lines += [*([f"**{title}**", ""] if title else []), *markdown(header, cells), ""]
    where = "  ".join(f"{key} {value}" for key, value in {**found["lab"], **found["environment"]}.items())
    samples = ", ".join(f"{_link(name, links)} ({lines:,} lines)" for name, lines in found["samples"].items())
    lines += [f"Command: `{found['command']}`. Samples: {samples}. Measured with: {where}.", ""]
    return "\n".join(lines)


def _heading(found: Mapping[str, Any]) -> str:
    return f"{found['number']}. {found['title']}"


def _link(name: str, links: Mapping[str, str]) -> str:
    return f"[`{name}`]({links[name]})" if name in links else f"`{name}`"


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, names of columns, and cells: settings to the left, intervals to the right.

    Example:
        >>> interval = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 4}
        >>> tables([{"where": {"alpha": 1.0}, "values": {"win": interval}}])
        [('', ['alpha', 'win', 'samples'], [['1', '0.500 (0.250 to 0.750)', '4']])]
    """
    return [
        (title, *_table([row for row in rows if row.get("table", "") == title]))
        for title in dict.fromkeys(row.get("table", "") for row in rows)
    ]


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    settings = list(dict.fromkeys(name for row in rows for name in row["where"]))
    fields = list(dict.fromkeys(name for row in rows for name in row["values"]))
    cells = [
        [
            *(_setting(row["where"].get(name)) for name in settings),
            *(interval(row["values"].get(name)) for name in fields),
            "/".join(map(str, sorted({value["count"] for value in row["values"].values()}))),
        ]
        for row in rows
    ]
    return [*settings, *fields, "samples"], cells


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table.

    Example:
        >>> markdown(["a", "b"], [["1", "2"]])
        ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    return [_line(header), "|" + "---|" * len(header), *map(_line, cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _setting(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def interval(value: Mapping[str, float] | None) -> str:
    """A mean with its interval, with as many digits as say something.

    Example:
        >>> interval({"mean": 123.456, "low": 120.0, "high": 127.0})
        '123 (120 to 127)'
        >>> interval({"mean": 2e-9, "low": 1e-9, "high": 3e-9})
        '2.0e-09 (1.0e-09 to 3.0e-09)'
    """
    if value is None:
        return ""
    size = max(abs(value["low"]), abs(value["high"]))
    form = ".1e" if 0 < size < 5e-4 else ".3f" if size < 10 else ".1f" if size < 100 else ".0f"
    mean, low, high = (f"{value[name]:{form}}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
