"""Claim 6: what an ARM's quality hangs on. One thing at a time is varied around a default.

The base is the packaged one (1.6M parameters) in both labs, so that more seeds and prompts can be had. Each ARM
(helpfulness) guides it at every alpha in one batch, a row each. Reported are the oracle's reward
at alpha 1 and its distance from the base; the reward at the distance that the default has at alpha 1, interpolated
between alphas, so that an ARM is not called better for being louder; and the accuracy on held-out pairs, judged without
noise.
"""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation import bootstrap_interval
from ..evaluation.preferences import evaluate_preferences
from ..playground import score
from ..playground.preferences import PreferencePair
from .drawing import draw
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm
from .samples import SAMPLES, Row, Sample, collect, grid, summarise, verdict

TITLE = "Ablations: what an ARM's quality hangs on"
CLAIM = (
    "Beta 0.05 to 0.5 by data set, alpha 1 / beta of the objective, LoRA or all weights; effects of beta, margin, "
    "length, size, amount and noise of data are not reported."
)

OBJECTIVE = "helpful"
ALPHAS = (0.0, 0.5, 1.0, 2.0)
_ALPHA = ALPHAS.index(1.0)
Array = NDArray[np.float64]
DEFAULT = "default"
VARIED: dict[str, dict[str, dict[str, Any]]] = {
    "loss": {"less a reference (DPO's)": {"subtract_reference": True}},
    "beta": {"0.5": {"beta": 0.5}, "0.02": {"beta": 0.02}},
    "margin": {"1": {"margin": 1.0}},
    "log-probabilities": {"per token, beta 2": {"length_normalize": True, "beta": 2.0}},
    "ARM": {
        "weak base (0.3M), all weights": {"backbone": "weak", "learning_rate": 1e-3},
        "LoRA rank 2": {"rank": 2},
        "LoRA rank 64": {"rank": 64},
    },
    "pairs": {"a quarter": {"pairs": 0.25}, "half": {"pairs": 0.5}, "twice as many": {"pairs": 2}},
    "labels": {"20 % flipped": {"flipped": 0.2}, "judge twice as noisy": {"label_scale": 0.5}},
}
"""What is varied, and how; numbers of pairs are shares of the default's."""
DEFAULTS = {
    "loss": "the paper's",
    "beta": "0.1",
    "margin": "0",
    "log-probabilities": "summed",
    "ARM": "LoRA rank 16",
    "pairs": "all",
    "labels": "judge's",
}
_HELD_OUT_SEED = 1_000
_TABLE = "One thing at a time; at equal KL: interpolated between alphas, anew for each resample"
_ALPHA_TABLE = "Alpha, of the default ARM"
_REWARD, _KL, _EQUAL, _CHANGE, _RIGHT = (
    "reward at alpha 1",
    "KL at alpha 1",
    "reward at equal KL",
    "change at equal KL",
    "held-out pair accuracy",
)


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train the ARMs, let each guide at all alphas, and compare them with the default."""
    small = replace(lab, fast=True)  # the packaged base
    cells = [
        {"varied": what, "setting": setting, "seed": seed, **sizes(lab)}
        for what, setting in settings(lab)
        for seed in lab.seeds
    ]
    samples = collect(output / SAMPLES, cells, lambda cell: _measure(small, cell, lab.prompts), progress)
    default = [one for one in samples if one["varied"] == DEFAULT]
    alphas = summarise([one for one in default if "alpha" in one], ("alpha",), ("reward", "kl"), table=_ALPHA_TABLE)
    return [*_rows(samples, default), *alphas]


def settings(lab: Lab) -> list[tuple[str, str]]:
    """What is varied and how, the default first; in the fast lab one setting of each."""
    return [(DEFAULT, "")] + [
        (what, setting) for what, several in VARIED.items() for setting in list(several)[: 1 if lab.fast else None]
    ]


def sizes(lab: Lab) -> dict[str, int]:
    """Prompts, pairs of the default training, and pairs that are held out."""
    return (
        {"prompts": 12, "pairs": 200, "held out": 100} if lab.fast else {"prompts": 40, "pairs": 400, "held out": 400}
    )


_BETTER, _WORSE, _LEVEL = "Better than the default at equal KL", "Worse", "Not told apart from it"


def answer(rows: Sequence[Row]) -> str:
    """How many changes make a difference, in a sentence."""
    said = [verdict(row["values"][_CHANGE], _BETTER, _WORSE, _LEVEL) for row in rows if _CHANGE in row["values"]]
    return (
        f"of {len(said)} changes, {said.count(_BETTER)} are better and {said.count(_WORSE)} worse than the default at "
        "equal KL by more than chance"
    )


def findings(rows: Sequence[Row]) -> list[str]:
    """Which changes make a difference that is larger than chance."""
    named: dict[str, list[str]] = {_BETTER: [], _WORSE: [], _LEVEL: []}
    for row in rows:
        if _CHANGE in row["values"]:
            where, change = row["where"], row["values"][_CHANGE]
            by = f"{change['mean']:+.2f} points, {change['low']:+.2f} to {change['high']:+.2f}"
            said = verdict(change, _BETTER, _WORSE, _LEVEL)
            named[said].append(f"{where['varied']}: {where['setting']} ({by})")
    return [f"{said}: {'; '.join(several)}." for said, several in named.items() if several]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of reward at alpha 1 and at equal divergence, a panel for each thing that is varied."""
    panels = []
    for what in VARIED:
        panel = Panel(what, "", "oracle reward (points)")
        for name in (_REWARD, _EQUAL):
            panel.lines[name] = [
                (textwrap.fill(row["where"]["setting"], 12), row["values"][name])
                for row in rows
                if row["where"].get("varied") == what and name in row["values"]
            ]
        panels.append(panel)
    draw_panels(panels, path, columns=3)


# ---------------------------------------------------------------------- measuring


def _measure(lab: Lab, cell: Mapping[str, Any], prompts: Sequence[str]) -> Iterator[Sample]:
    """Replies guided by an ARM at every alpha, and whether it ranks held-out pairs right."""
    training = training_of(cell)
    arm, numbers = trained_arm(lab, training), range(cell["prompts"])
    rows = [(alpha, number) for number in numbers for alpha in ALPHAS]
    strong = training.backbone == "strong"

    def generate(alpha: torch.Tensor, **kwargs: Any) -> Any:
        return lab.strong.generate(reward_models=[arm], alpha=alpha, share_backbone=strong, **kwargs)

    alphas = torch.tensor([[alpha] for alpha, _ in rows])
    drawn = draw(lab, generate, [prompts[number] for _, number in rows], cell["seed"], [OBJECTIVE], alphas)
    for (alpha, number), sample in zip(rows, drawn.samples, strict=True):
        yield {"alpha": alpha, "prompt": number, "reward": sample.pop(OBJECTIVE), **sample}
    pairs = held_out(lab, cell)
    rewards = evaluate_preferences(arm, pairs, lab.tokenizer, length_normalize=training.length_normalize).rewards
    for number, (chosen, rejected) in enumerate(rewards):
        yield {"pair": number, "right": float(chosen > rejected)}


def training_of(cell: Mapping[str, Any]) -> ArmTraining:
    """The default training, with the one thing that the cell varies."""
    changes = dict(VARIED.get(cell["varied"], {}).get(cell["setting"], {}))
    pairs = round(changes.pop("pairs", 1) * cell["pairs"])
    return replace(ArmTraining(OBJECTIVE, cell["seed"], pairs), **changes)


def held_out(lab: Lab, cell: Mapping[str, Any]) -> list[PreferencePair]:
    """Pairs of other draws, the better reply chosen always; those with equal points are left out."""
    return [
        pair
        for pair in lab.pairs(OBJECTIVE, cell["held out"], _HELD_OUT_SEED, scale=math.inf)
        if score(OBJECTIVE, pair["prompt"], pair["chosen"]) > score(OBJECTIVE, pair["prompt"], pair["rejected"])
    ]


# ---------------------------------------------------------------------- summing up


def _rows(samples: Sequence[Sample], default: Sequence[Sample]) -> list[Row]:
    """A row a setting, the default's before those of each thing that is varied."""
    rows = []
    for what in VARIED:
        rows.append(_row(what, f"{DEFAULTS[what]} (default)", default, default))
        own = [one for one in samples if one["varied"] == what]
        for setting in dict.fromkeys(one["setting"] for one in own):
            rows.append(_row(what, setting, [one for one in own if one["setting"] == setting], default))
    return rows


def _row(what: str, setting: str, own: Sequence[Sample], default: Sequence[Sample]) -> Row:
    curve, target = _curve(own), _curve(default)
    values = {
        _REWARD: bootstrap_interval(curve[0][_ALPHA]),
        _KL: bootstrap_interval(curve[1][_ALPHA]),
        _RIGHT: bootstrap_interval(grid([one for one in own if "pair" in one], "right", ("seed", "pair"))),
    }
    if curve[1][-1].mean() >= target[1][_ALPHA].mean():  # else it never goes as far as the default
        arrays = [*curve[0], *curve[1], target[1][_ALPHA], target[0][_ALPHA]]
        values[_EQUAL] = bootstrap_interval(*arrays, statistic=lambda *drawn: _at_equal_kl(drawn)[0])
        if own is not default:
            values[_CHANGE] = bootstrap_interval(*arrays, statistic=lambda *drawn: np.subtract(*_at_equal_kl(drawn)))
    found = {name: asdict(interval) for name, interval in values.items()}
    return {"table": _TABLE, "where": {"varied": what, "setting": setting}, "values": found}


def _curve(samples: Sequence[Sample]) -> tuple[list[Array], list[Array]]:
    """Rewards and divergences at each alpha, `(seeds, prompts)`."""
    by_alpha = [[one for one in samples if one.get("alpha") == alpha] for alpha in ALPHAS]
    return [grid(some, "reward") for some in by_alpha], [grid(some, "kl") for some in by_alpha]


def _at_equal_kl(drawn: Sequence[Array]) -> tuple[Array, Array]:
    """Reward where an ARM's divergence is the default's at alpha 1, and the default's reward there, of each resample.

    Args:
        drawn: rewards at each alpha, divergences at each alpha, the default's divergence and reward at alpha 1; each
            `(resamples, seeds, prompts)`.
    """
    *curves, wanted, reward = (values.mean((-2, -1)) for values in drawn)
    rewards, kls = np.array(curves[: len(ALPHAS)]).T, np.array(curves[len(ALPHAS) :]).T
    kls = np.maximum.accumulate(kls, axis=-1)  # which noise alone could make fall
    found = [np.interp(at, kl, row, right=np.nan) for at, kl, row in zip(wanted, kls, rewards, strict=True)]
    return np.array(found), reward
