"""Samples on disk, one a line, and the numbers they give.

A claim's samples are made cell by cell (a cell is a dictionary of settings), and a cell is on disk completely or not at
all: a run that was killed goes on with the first cell that is missing. Every number of a table is the mean of one field
over the lines with the settings of its row, so that anybody can compute it again.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import bootstrap_interval
from ..files import written_whole

SAMPLES = "samples.jsonl"
Sample = dict[str, Any]
Row = dict[str, Any]
"""`where`: settings of the row's samples. `values`: name of a field to its interval. `table`: a title, or missing."""

_OF = "cell_samples"  # number of lines that its cell has: fewer are the remains of a killed run


def collect(
    path: Path,
    cells: Sequence[Mapping[str, Any]],
    make: Callable[[Mapping[str, Any]], Iterable[Sample]],
    progress: Callable[[str], Any] = lambda message: None,
) -> list[Sample]:
    """The samples of every cell; those that the file has are not made again.

    Args:
        path: the JSONL file, which grows by a cell at a time. Lines of other cells are removed.
        cells: settings, of JSON types; no two alike.
        make: samples of a cell; their fields come beside the cell's settings.
        progress: told of each cell.

    Returns:
        All samples, in the order of the cells.
    """
    found = _complete(path, cells)
    for number, cell in enumerate(cells, 1):
        if _key(cell) in found:
            continue
        progress(f"{number} of {len(cells)}: {', '.join(f'{name} {value}' for name, value in cell.items())}")
        samples = list(make(cell))
        lines = [{**cell, **sample, _OF: len(samples)} for sample in samples]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        found[_key(cell)] = lines
    return [sample for cell in cells for sample in found[_key(cell)]]


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)


def _complete(path: Path, cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Sample]]:
    """Samples on disk of the cells that are complete; the file is left with these alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found: dict[str, list[Sample]] = {}
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):  # the last one may have been cut short
            sample = json.loads(line)
            cell = next((cell for cell in cells if all(sample.get(k) == v for k, v in cell.items())), None)
            if cell is not None:
                found.setdefault(_key(cell), []).append(sample)
    found = {key: samples for key, samples in found.items() if len(samples) == samples[0][_OF]}
    kept = "".join(json.dumps(sample) + "\n" for samples in found.values() for sample in samples)
    if kept != text:
        with written_whole(path) as draft:
            draft.write_text(kept, encoding="utf-8")
    return found


def summarise(
    samples: Iterable[Sample],
    by: Sequence[str],
    fields: Sequence[str],
    units: Sequence[str] = ("seed", "prompt"),
    table: str | None = None,
) -> list[Row]:
    """Rows of a table: the mean of each field over the samples that agree in their settings, with its 95 % interval.

    Args:
        samples: those without one of the settings are left out.
        by: settings that make a row, in the order of the columns.
        fields: what is averaged; None in a sample counts as missing.
        units: one or two settings that would be drawn anew in a repetition, together different for every sample of a
            row; see `evaluation.bootstrap_interval`. At least two of the last.
        table: title of the table, where a claim has several.

    Raises:
        ValueError: two samples of a row have the same units.
    """
    groups: dict[tuple, list[Sample]] = {}
    for sample in samples:
        if all(name in sample for name in by):
            groups.setdefault(tuple(sample[name] for name in by), []).append(sample)
    titled: Row = {} if table is None else {"table": table}
    rows = []
    for key, group in groups.items():
        known = {field: [one for one in group if one.get(field) is not None] for field in fields}
        values = {field: asdict(bootstrap_interval(grid(some, field, units))) for field, some in known.items() if some}
        rows.append({**titled, "where": dict(zip(by, key, strict=True)), "values": values})
    return rows


def verdict(interval: Mapping[str, float], above: str, below: str, neither: str = "not told apart") -> str:
    """What an interval of a difference says: that it is above zero, below, or neither.

    Example:
        >>> verdict({"low": 0.1, "high": 0.3}, "better", "worse")
        'better'
        >>> verdict({"low": -0.1, "high": 0.3}, "better", "worse")
        'not told apart'
    """
    return above if interval["low"] > 0 else below if interval["high"] < 0 else neither


def grid(samples: Sequence[Sample], field: str, units: Sequence[str] = ("seed", "prompt")) -> NDArray[np.float64]:
    """Values of a field, a row for every first unit and a column for every second one; NaN where there is none.

    Raises:
        ValueError: two samples have the same units.
    """
    first, second = ([sample[unit] for sample in samples] for unit in (units if len(units) == 2 else (units[0],) * 2))
    if len(units) == 1:
        first = [None] * len(second)
    rows, columns = ({unit: at for at, unit in enumerate(dict.fromkeys(kind))} for kind in (first, second))
    values = np.full((len(rows), len(columns)), np.nan)
    for sample, row, column in zip(samples, first, second, strict=True):
        if not np.isnan(values[rows[row], columns[column]]):
            raise ValueError(f"`units` {tuple(units)} must tell the samples of a row apart; two have {row}, {column}.")
        values[rows[row], columns[column]] = sample[field]
    return values
