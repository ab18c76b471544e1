"""Figures from results on disk. They need the extra `plot` (matplotlib) and never load a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOR = "#1f5a99"


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
