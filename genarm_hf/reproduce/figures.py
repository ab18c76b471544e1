"""Figures of claims: panels of lines with their intervals. They need the extra `plot` (matplotlib)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COLORS = (
    "#1f5a99",
    "#c9741a",
    "#5b8c3a",
    "#8a4a8f",
    "#7a7a7a",
    "#b03a3a",
    "#2a9d9d",
    "#9d8b2a",
    "#000000",
    "#d17ab0",
    "#4d6fff",
    "#00603f",
)


@dataclass
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        xlabel: what is along x.
        ylabel: what is along y.
        xscale: matplotlib's name: `"linear"`, `"log"`, `"symlog"`.
        yscale: likewise.
        lines: name of a line to its points, each an x and an interval (`mean`, `low`, `high`) of y. Where every x is a
            text, points are bars.
    """

    title: str
    xlabel: str
    ylabel: str
    xscale: str = "linear"
    yscale: str = "linear"
    lines: dict[str, list[tuple[Any, Mapping[str, float]]]] = field(default_factory=dict)


def draw_panels(panels: Sequence[Panel], path: Path, columns: int | None = None, width: float = 4.2) -> None:
    """Draw panels side by side, with one legend above.

    Args:
        panels: with the same lines.
        path: where the image goes; its ending says the format.
        columns: panels in a row. None: all.
        width: of a panel, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'genarm-hf[plot]'.") from error
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, width * rows * 0.95), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, panel in zip(places, panels, strict=False):
        axes.set(title=panel.title, xlabel=panel.xlabel, xscale=panel.xscale, yscale=panel.yscale)
        for number, (name, points) in enumerate(panel.lines.items()):
            _draw(axes, points, number, len(panel.lines), name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    first = figure.axes[0]
    for axes in figure.axes[::columns]:
        axes.set(ylabel=panels[0].ylabel)
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=150)


def _draw(axes: Any, points: Sequence[tuple[Any, Mapping[str, float]]], number: int, count: int, name: str) -> None:
    if not points:  # what other panels have
        return
    means = [value["mean"] for _, value in points]
    bars = [[max(v["mean"] - v["low"], 0) for _, v in points], [max(v["high"] - v["mean"], 0) for _, v in points]]
    style: dict[str, Any] = {"yerr": bars, "capsize": 2, "color": _COLORS[number % len(_COLORS)], "label": name}
    places = [place for place, _ in points]
    if not all(isinstance(place, str) for place in places):
        axes.errorbar(places, means, marker="o", markersize=3, **style)
        return
    width = 0.8 / count
    axes.bar([at + (number - (count - 1) / 2) * width for at in range(len(places))], means, width, **style)
    axes.set_xticks(range(len(places)), places, fontsize=8)
