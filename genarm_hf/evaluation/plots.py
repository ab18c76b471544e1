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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'genarm-hf[plot]'.") from error
    rows = sorted(rows, key=lambda row: row["alpha"])
    figure = Figure(figsize=(9, 3.6), layout="constrained")  # no pyplot: no global state, no window
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


def _draw(axes: Any, x: list[float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Means with their 95 % intervals as bars."""
    rewards = [row["oracle_reward"] for row in rows]
    means = [reward["mean"] for reward in rewards]
    bars = [[r["mean"] - r["low"] for r in rewards], [r["high"] - r["mean"] for r in rewards]]
    axes.errorbar(x, means, yerr=bars, marker="o", capsize=3, color=_COLOR)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
