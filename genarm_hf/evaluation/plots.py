"""Figures from results on disk. They need the extra `plot` (matplotlib) and never load a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOR = "#1f5a99"
_COLORS = (_COLOR, "#c9741a", "#5b8c3a", "#8a4a8f", "#7a7a7a", "#b03a3a", "#2a9d9d", "#9d8b2a")
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
    label = f"{row['draft']}, {'sampling' if row['sampling'] else 'greedy'}"
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
