"""Figures from results on disk. They need the extra `plot` (matplotlib) and never load a model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOR = "#1f5a99"
_COLORS = (_COLOR, "#c9741a", "#5b8c3a", "#8a4a8f", "#7a7a7a", "#b03a3a", "#2a9d9d", "#9d8b2a")
# Okabe and Ito's, told apart by all kinds of colour vision; without their yellow, which is no colour for letters
_SAFE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#7F7F7F")
_MARKERS = "os^Dv<>P"
_ASKED = "#b03a3a"


def plot_guidance(rows: Sequence[Mapping[str, Any]], path: str | Path, objective: str = "reward") -> None:
    """Draw how the measured reward rises with alpha, and what it costs in distance from the base.

    Args:
        rows: one per alpha, with `alpha`, `oracle_reward` (a mapping with `mean`, `low`, `high`) and `kl` (a mapping
            with `mean`, in nats).
        path: where the image goes; its ending (`.png`, `.svg`, `.pdf`) says the format.
        objective: what is measured, for the axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = sorted(rows, key=lambda row: row["alpha"])
    figure = _figure(9, 3.6)
    against_alpha, against_kl = figure.subplots(1, 2, sharey=True)
    _draw(against_alpha, [row["alpha"] for row in rows], rows)
    against_alpha.set(
        xlabel="guidance strength alpha", ylabel=f"oracle reward: {objective} (points)", title="Reward against alpha"
    )
    _draw(against_kl, [row["kl"]["mean"] for row in rows], rows)
    against_kl.set(xlabel="KL to the base (nats per reply)", title="Reward against distance")
    for row in rows:
        at = (row["kl"]["mean"], row["oracle_reward"]["mean"])
        against_kl.annotate(f"alpha {row['alpha']:g}", at, xytext=(6, -10), textcoords="offset points", fontsize=8)
    figure.savefig(path, dpi=150)


def plot_reliability(reports: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw how often people agree with reward models, against how often these expect them to.

    On the diagonal a model is as sure as it is right; below it, it is too sure.

    Args:
        reports: name of a model to what `PreferenceReport.to_dict()` gives; those without a calibration are left out.
        path: where the image goes; its ending (`.png`, `.svg`, `.pdf`) says the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no report has a calibration.
    """
    if all(report["calibration"] is None for report in reports.values()):
        raise ValueError("`reports` have no calibration to draw: no model says its beta. Pass one.")
    figure = _figure(4.6, 4.2)
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="grey", linestyle="--", linewidth=1)
    for name, report in reports.items():
        if report["calibration"] is None:
            continue
        bins = report["calibration"]["bins"]
        shares = [one["accuracy"] for one in bins]
        means = [share["value"] for share in shares]
        bars = [[s["value"] - s["low"] for s in shares], [s["high"] - s["value"] for s in shares]]
        label = f"{name} (ECE {report['calibration']['error']:.3f})"
        axes.errorbar([one["confidence"] for one in bins], means, yerr=bars, marker="o", capsize=3, label=label)
    axes.set(
        xlabel="predicted probability of the model's favourite",
        ylabel="share of pairs in which people agree",
        title="Calibration on held-out pairs",
    )
    axes.legend(fontsize=8)
    _plain(axes)
    figure.savefig(path, dpi=150)


def plot_methods(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    x: str = "kl",
    y: str = "reward",
    xlabel: str = "KL to the base (nats per reply)",
    ylabel: str = "reward",
    title: str = "",
    log_x: bool = False,
    best: bool = False,
) -> None:
    """Draw what methods get for what they pay: reward against KL, reward against compute, two objectives.

    Each method is a line through its settings in the order of `rows`, with intervals as bars, and its name beside it.

    Args:
        rows: one a setting, with `method`, a number or interval (a mapping with `mean`, perhaps `low` and `high`) under
            the names of both axes, and perhaps a `label` (`alpha 2`, say) for the point.
        path: where the image goes; its ending (`.png`, `.svg`, `.pdf`) says the format.
        x: name of what lies on the horizontal axis.
        y: name of what lies on the vertical axis.
        xlabel: what the axis says.
        ylabel: likewise.
        title: above the figure.
        log_x: horizontal axis in powers of ten, for compute.
        best: both axes are objectives; mark what no point of any method beats.

    Raises:
        ImportError: matplotlib is not installed, or moocore for `best`.
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("`rows` is empty: there is nothing to draw.")
    figure = _figure(7, 4.6)
    axes = figure.subplots()
    if best:
        _draw_front(axes, [(_interval(row[x])[0], _interval(row[y])[0]) for row in rows])
    labels = []
    for index, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        here = [row for row in rows if row["method"] == method]
        labels += _draw_method(axes, here, x, y, method, index)
    if log_x:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.margins(0.12)
    _plain(axes)
    _place_labels(figure, axes, labels)
    figure.savefig(path, dpi=150)


def plot_pareto(
    rows: Sequence[Mapping[str, Any]], path: str | Path, objectives: tuple[str, str], title: str = ""
) -> None:
    """Draw the trade-offs of several methods between two objectives, and the front of all together.

    Args:
        rows: as in [`plot_methods`], one a trade-off, in the order of their weights.
        path: where the image goes.
        objectives: names of both, in rows and on the axes; more is better.
        title: above the figure.

    Raises:
        ImportError: matplotlib or moocore is not installed.
    """
    x, y = objectives
    plot_methods(rows, path, x=x, y=y, xlabel=x, ylabel=y, title=title, best=True)


def plot_bars(
    bars: Mapping[str, Any], path: str | Path, *, label: str = "reward", title: str = "", reference: float | None = None
) -> None:
    """Draw one number a method as bars, with intervals and the number itself.

    Args:
        bars: method to a number or interval (a mapping with `mean`, perhaps `low` and `high`), from top to bottom.
        path: where the image goes; its ending (`.png`, `.svg`, `.pdf`) says the format.
        label: what the numbers are.
        title: above the figure.
        reference: a line to compare with, as 0.5 for win rates.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no bars.
    """
    if not bars:
        raise ValueError("`bars` is empty: there is nothing to draw.")
    figure = _figure(6.4, 1.2 + 0.42 * len(bars))
    axes = figure.subplots()
    for place, value in enumerate(bars.values()):
        mean, low, high = _interval(value)
        axes.barh(place, mean, 0.62, color=_SAFE[0], alpha=0.75)
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3, linewidth=1)
        right = mean >= 0
        at = (max(high, 0) if right else min(low, 0), place)
        axes.annotate(
            f"{mean:.3g}", at, xytext=(5 if right else -5, 0), textcoords="offset points", va="center", fontsize=9,
            ha="left" if right else "right",
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set(xlabel=label, title=title)
    _plain(axes)
    axes.grid(False, axis="y")
    figure.savefig(path, dpi=150)


def _interval(value: Any) -> tuple[float, float, float]:
    """Mean, low and high of a number, a mapping or an [`Interval`]."""
    if isinstance(value, Mapping):
        mean = float(value["mean"])
        return mean, float(value.get("low", mean)), float(value.get("high", mean))
    if hasattr(value, "mean") and hasattr(value, "low"):
        return float(value.mean), float(value.low), float(value.high)
    return float(value), float(value), float(value)


def _draw_method(
    axes: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, method: str, index: int
) -> list[tuple[str, tuple[float, float], str, int]]:
    """One method's line; returns what is to be written where: text, point, colour, size."""
    color, marker = _SAFE[index % len(_SAFE)], _MARKERS[index % len(_MARKERS)]
    across, up = [_interval(row[x]) for row in rows], [_interval(row[y]) for row in rows]
    bars = [[[one[0] - one[1] for one in side], [one[2] - one[0] for one in side]] for side in (across, up)]
    points = [(a[0], b[0]) for a, b in zip(across, up, strict=True)]
    axes.errorbar(
        *zip(*points, strict=True), xerr=bars[0], yerr=bars[1], color=color, marker=marker, markersize=5, linewidth=1.5,
        elinewidth=0.8, capsize=2,
    )  # fmt: skip
    highest = max(points, key=lambda point: point[1])
    labels = [(method, highest, color, 10)]
    return labels + [
        (str(row["label"]), point, color, 7) for row, point in zip(rows, points, strict=True) if row.get("label")
    ]


def _draw_front(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """The points that no other one beats, and what they beat, as a shaded staircase."""
    from .pareto import non_dominated

    kept = [point for point, best in zip(points, non_dominated(points), strict=True) if best]
    front = sorted(set(kept))
    left, bottom = min(point[0] for point in points), min(point[1] for point in points)
    across, up = [left, *(x for x, _ in front)], [front[0][1], *(y for _, y in front)]
    axes.fill_between(across, up, bottom, step="pre", color="grey", alpha=0.12, linewidth=0)
    axes.plot(*zip(*front, strict=True), "o", markersize=12, markerfacecolor="none", markeredgecolor="grey")


# where a label may stand, seen from its point, in points of 1/72 inch: the nearest free place is taken
_AROUND = ((7, 5), (7, -13), (-7, 5), (-7, -13), (0, 9), (0, -17))
_PLACES = [(dx * far, dy * far) for far in (1, 2, 3.5, 5) for dx, dy in _AROUND]


def _place_labels(figure: Any, axes: Any, labels: Iterable[tuple[str, tuple[float, float], str, int]]) -> None:
    """Write labels beside their points, where nothing else is written or drawn; names first, then those of points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # axes have their places from here on
    labels = sorted(labels, key=lambda label: -label[3])
    points = [axes.transData.transform(point) for _, point, _, _ in labels]
    taken = [np.concatenate([at - 3, at + 3])[None] for at in points] + _lines(axes)
    for text, point, color, size in labels:
        note = axes.annotate(text, point, color=color, fontsize=size, textcoords="offset points", xytext=(7, 5))
        note.set_bbox({"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.6})
        found: list[Any] = []
        for dx, dy in _PLACES:
            _move(note, dx, dy)
            box = note.get_window_extent(renderer)
            found.append((_conflicts(box, np.concatenate(taken), axes.bbox), len(found), (dx, dy), box))
            if not found[-1][0]:
                break
        _, _, place, box = min(found, key=lambda one: one[:2])
        _move(note, *place)
        taken += [np.array([box.extents])] * 50  # no label lies on another where it can lie on a line


def _move(note: Any, dx: float, dy: float) -> None:
    note.set(position=(dx, dy), ha="left" if dx > 0 else "right" if dx < 0 else "center")


def _conflicts(box: Any, taken: Any, inside: Any) -> int:
    """How many of the boxes `(n, 4)` a label lies on; as good as all where it leaves the axes."""
    left, bottom, right, top = box.extents
    over = (taken[:, 0] < right) & (taken[:, 2] > left) & (taken[:, 1] < top) & (taken[:, 3] > bottom)
    outside = not (inside.contains(left, bottom) and inside.contains(right, top))
    return int(over.sum()) + outside * 1000


def _lines(axes: Any) -> list[Any]:
    """Small boxes `(n, 4)` along the lines that join points, in pixels."""
    boxes = [np.empty((0, 4))]
    for line in axes.lines:
        corners = axes.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        if line.get_linestyle() != "None" and len(corners) > 1:
            share = np.linspace(0, 1, 40)[:, None, None]
            along = (corners[:-1] + share * np.diff(corners, axis=0)).reshape(-1, 2)
            boxes.append(np.concatenate([along - 1, along + 1], 1))
    return boxes


def plot_benchmark(suite: str, rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw what a suite of `genarm-hf bench` measured, relative to the base alone.

    Args:
        suite: `decode`, `shared` and `speculative` as bars with the time asked for, `scaling` as curves.
        rows: the suite's.
        path: where the image goes; its ending (`.png`, `.svg`, `.pdf`) says the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if suite == "scaling":
        figure = _scaling(rows)
    else:
        bars = {"decode": _decode_bars, "shared": _shared_bars, "speculative": _speculative_bars}[suite]
        figure = _bars([bars(row) for row in rows])
    figure.savefig(path, dpi=150)


# a group of bars: its label, ratios by name, and the ratio asked for
_Bars = tuple[str, Mapping[str, Mapping[str, float]], float | None]


def _decode_bars(row: Mapping[str, Any]) -> _Bars:
    shown = {name: value for name, value in row["of_base"].items() if name != "arm"}
    return f"{row['shape']}, batch {row['batch']}", shown, row["physical_of_base"]["median"] / row["asked"]


def _shared_bars(row: Mapping[str, Any]) -> _Bars:
    label = f"{row['shape']}, batch {row['batch']},\n{row['reward_models']} reward model(s)"
    return label, row["step_of_base"], row["asked"]


def _speculative_bars(row: Mapping[str, Any]) -> _Bars:
    label = f"{row['draft']},\n{'sampling' if row['sampling'] else 'greedy'}"
    if row["policy"] != "default":
        label += f",\nalpha {row['alpha']:g}, {row['policy']}"
    return label, {"token by token": row["guided_of_base"], "with drafts": row["speculative_of_base"]}, row["asked"]


def _bars(groups: Sequence[_Bars]) -> Any:
    """Groups of bars with quartiles, the base's own time as a line at 1, and what is asked for as a mark over each."""
    names = list(dict.fromkeys(name for _, ratios, _ in groups for name in ratios))
    figure = _figure(2.5 + 0.28 * len(groups) * (len(names) + 1), 4.4)
    axes, width = figure.subplots(), 0.8 / len(names)
    for index, name in enumerate(names):
        known = [(place, ratios[name]) for place, (_, ratios, _) in enumerate(groups) if name in ratios]
        places = [place + (index - (len(names) - 1) / 2) * width for place, _ in known]
        medians = [value["median"] for _, value in known]
        color = _COLORS[index % len(_COLORS)]
        axes.bar(places, medians, width, yerr=_quartiles([v for _, v in known]), capsize=2, label=name, color=color)
    axes.axhline(1, color="grey", linestyle="--", linewidth=1)
    asked = [(place, value) for place, (_, _, value) in enumerate(groups) if value is not None]
    for place, value in asked:
        label = "asked: at most" if place == asked[0][0] else None
        axes.hlines(value, place - 0.45, place + 0.45, color=_ASKED, linewidth=2, label=label)
    axes.set_xticks(range(len(groups)), [label for label, _, _ in groups], fontsize=8)
    axes.set(ylabel="time relative to the base alone", ylim=(0, None))
    if len(groups) > 6:
        axes.tick_params(axis="x", rotation=60)
    figure.legend(fontsize=8, loc="outside upper center", ncols=3)
    _plain(axes)
    return figure


def _scaling(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A panel an axis: milliseconds along the context, ratios to the base along numbers of things, bytes of memory."""
    shown = list(dict.fromkeys(row["axis"] for row in rows))
    figure = _figure(4.2 * len(shown), 3.8)
    for axes, axis in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        here = [row for row in rows if row["axis"] == axis]
        if axis == "memory":
            _draw_memory(axes, here)
        else:
            _draw_curves(axes, here, axis)
        axes.legend(fontsize=8)
        _plain(axes)
    return figure


def _draw_curves(axes: Any, rows: Sequence[Mapping[str, Any]], axis: str) -> None:
    """Along the context in milliseconds, next to the base's own curve; elsewhere as ratios."""
    for shape in dict.fromkeys(row["shape"] for row in rows):
        here = [row for row in rows if row["shape"] == shape]
        places = [row["at"] for row in here]
        scales = [row["base_ms"] if axis == "length" else 1 for row in here]
        axes.plot(places, scales, color="grey", linestyle="--", marker=".", label=f"{shape}: base")
        for index, name in enumerate(dict.fromkeys(name for row in here for name in row["of_base"])):
            ratios = [row["of_base"][name] for row in here]
            means = [ratio["median"] * scale for ratio, scale in zip(ratios, scales, strict=True)]
            bars = [[b * s for b, s in zip(side, scales, strict=True)] for side in _quartiles(ratios)]
            axes.errorbar(places, means, yerr=bars, marker="o", capsize=2, color=_COLORS[index], label=name)
    if axis != "reward models":
        axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["at"] for row in rows}), [str(at) for at in sorted({row["at"] for row in rows})])
    axes.set(xlabel=axis, ylim=(0, None), ylabel="ms a step" if axis == "length" else "step relative to the base")


def _draw_memory(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """What must be held as stacked bars, and the measured peak as a mark over each."""
    labels = [f"{row['reward_models']} {row['at']}" if row["reward_models"] else "base alone" for row in rows]
    below = [0.0] * len(rows)
    for index, part in enumerate(("base", "reward_models", "caches")):
        sizes = [row["expected"][part] / 1e6 for row in rows]
        axes.bar(labels, sizes, bottom=below, color=_COLORS[index], label=part.replace("_", " "))
        below = [a + b for a, b in zip(below, sizes, strict=True)]
    axes.plot(labels, [row["peak"] / 1e6 for row in rows], "k_", markersize=24, label="measured peak")
    axes.set(ylabel="MB", xlabel="memory", ylim=(0, None))
    axes.tick_params(axis="x", rotation=30, labelsize=8)


def _quartiles(ratios: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Distances of the quartiles from the medians, below and above."""
    return [[r["median"] - r["low"] for r in ratios], [r["high"] - r["median"] for r in ratios]]


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'genarm-hf[plot]'.") from error
    return Figure(figsize=(width, height), layout="constrained")  # no pyplot: no global state, no window


def _draw(axes: Any, x: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Means with their 95 % intervals as bars."""
    rewards = [row["oracle_reward"] for row in rows]
    means = [reward["mean"] for reward in rewards]
    bars = [[r["mean"] - r["low"] for r in rewards], [r["high"] - r["mean"] for r in rewards]]
    axes.errorbar(x, means, yerr=bars, marker="o", capsize=3, color=_COLOR)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
