"""Claim 2: GenARM against training the base itself, by DPO and SimPO on the same pairs, at equal KL to the base.

One ARM gives a curve of reward against KL as alpha grows; DPO and SimPO (LoRA adapters of the same rank) give a point
for every training, and stretching what DPO has learned gives it a curve too: the base guided by DPO's implicit reward
(decoding-time realignment, arXiv 2402.02992), which is the DPO model itself at alpha 1. All curves start at the base,
and are straight between their points. Where two curves both reach a KL, their rewards there are compared.

An ARM is its backbone and what it has learned, so GenARM also sharpens the base, which alone pays in this world. Three
controls tell these apart: the base sharpened, that is, sampled at temperature 1 / (1 + alpha); the DPO model sampled
so; and the base guided by what the ARM has learned alone, its backbone taken away.

The DPO model itself is an ARM as well, one whose loss has the base as a reference. GenARM with it is compared with the
others likewise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.guided_model import guide
from ..evaluation import bootstrap_interval
from ..modeling_genarm import AutoregressiveRewardModel
from ..modeling_implicit import ImplicitRewardModel
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm
from .policies import PolicyTraining, trained_policy
from .replies import KL, LARGE_BATCH, QUALITY, REWARD, judged, sampled_by_stages
from .samples import SAMPLES, Row, Sample, collect, grid, summarise, verdict

TITLE = "Against training the base"
CLAIM = "GenARM matches the performance of training-time methods, DPO and SimPO, without training the base."

OBJECTIVE = "helpful"
BASE, GENARM, DPO, STRETCHED, SIMPO = "base", "GenARM", "DPO", "DPO, stretched", "SimPO"
SHARPENED, SHARP_DPO, LEARNED = "base, sharpened", "DPO, sharpened", "GenARM without its backbone"
DPO_ARM = "GenARM, its ARM trained by DPO"
OTHERS = {
    GENARM: (DPO, STRETCHED, SIMPO, SHARPENED, SHARP_DPO, LEARNED, DPO_ARM),
    DPO_ARM: (DPO, SIMPO, SHARP_DPO),
}
"""Whom each is compared with."""
Settings = Mapping[str, Mapping[str, float]]


def _named(*settings: Mapping[str, float]) -> Settings:
    return {", ".join(f"{name} {value:g}" for name, value in one.items()): one for one in settings}


SETTINGS: dict[str, Settings] = {
    BASE: _named({}),
    **{system: _named(*({"alpha": alpha} for alpha in (0.5, 1.0, 2.0, 4.0))) for system in (GENARM, DPO_ARM)},
    DPO: _named(*({"beta": 0.1, "rate": 2e-3, "epochs": epochs} for epochs in (1, 2))),
    SIMPO: _named(*({"beta": 2.5, "rate": 2e-3, "epochs": epochs} for epochs in (1, 2))),
    **{
        system: _named(*({"alpha": alpha} for alpha in (1.0, 2.0, 4.0))) for system in (STRETCHED, SHARPENED, SHARP_DPO)
    },
    LEARNED: _named({"alpha": 1.0}),
}
"""Every point is a training, so they are few. The rate was chosen on dev prompts of the full lab (seed 0): at 1e-3 one
pass hardly leaves the base (0.1 nats), at 3e-3 DPO comes apart (15 nats, and hardly better than the base)."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Where curves are compared: shares of the largest KL that both reach."""
_SHOWN = 30.0
"""Largest KL in the figure, in nats; a training that has come apart is at hundreds."""
_POINTS, _MATCHED = "Held-out prompts", "Reward at equal KL, read off the curves"
_OWN, _OTHER, _LEAD = "its own", "the other's", "difference"
Array = NDArray[np.float64]


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train, let all reply, and compare at equal KL."""
    cells = [
        {"system": system, "setting": setting, "seed": seed}
        for system in SETTINGS
        for setting in SETTINGS[system]
        for seed in lab.seeds
    ]
    samples = collect(output / SAMPLES, cells, lambda cell: _reply(lab, cell), progress)
    points = summarise(samples, ("system", "setting"), QUALITY, table=_POINTS)
    pairs = [(own, other) for own, others in OTHERS.items() for other in others]
    return [*points, *(row for own, other in pairs for row in matched(samples, own, other))]


def _reply(lab: Lab, cell: Mapping[str, Any]) -> list[Sample]:
    system, setting = cell["system"], cell["setting"]
    # a model sharpened by itself is what GenARM makes of an ARM that has learned nothing
    cold = {"temperature": 1 / (1 + SETTINGS[system][setting]["alpha"])} if system in (SHARPENED, SHARP_DPO) else {}
    drawn = sampled_by_stages(lab, _policy(lab, system, setting, cell["seed"]), **cold)
    return judged(lab, drawn, lab.prompts, cell["seed"], OBJECTIVE, batch_size=LARGE_BATCH)


def _policy(lab: Lab, system: str, setting: str, seed: int) -> Any:
    """A system's model, guided or not, at temperature 1."""
    options = SETTINGS[system][setting]
    if system in (BASE, SHARPENED):
        return lab.strong
    if system in (GENARM, LEARNED):
        arm: Any = trained_arm(lab, ArmTraining(OBJECTIVE, seed, lab.pairs_to_train_on, learning_rate=lab.reward_rate))
        return guide(
            lab.strong, [arm if system == GENARM else ImplicitRewardModel(arm, lab.strong)], alpha=options["alpha"]
        )
    if system in (STRETCHED, SHARP_DPO, DPO_ARM):
        tuned = _policy(lab, DPO, next(iter(SETTINGS[DPO])), seed)
        if system == SHARP_DPO:
            return tuned
        if system == DPO_ARM:
            return guide(lab.strong, [AutoregressiveRewardModel.from_backbone(tuned)], alpha=options["alpha"])
        return guide(lab.strong, [ImplicitRewardModel(tuned, lab.strong)], alpha=options["alpha"])
    return trained_policy(lab, training(lab, system, setting, seed))


def training(lab: Lab, system: str, setting: str, seed: int) -> PolicyTraining:
    """How a DPO or SimPO model of a setting is trained."""
    own = SETTINGS[system][setting]
    return PolicyTraining(
        system.lower(),
        OBJECTIVE,
        seed,
        lab.pairs_to_train_on,
        beta=own["beta"],
        learning_rate=own["rate"],
        epochs=int(own["epochs"]),
    )


# ---------------------------------------------------------------------- equal KL


def matched(samples: Sequence[Sample], system: str, other: str) -> list[Row]:
    """Rows of a system's reward, another's and their difference at several KLs, each with its interval.

    Args:
        samples: of the base and both systems, all with the same prompts and seeds.
        system: the one.
        other: the other.
    """
    base = [grid([one for one in samples if one["system"] == BASE], REWARD)]
    own, others = (_curve(samples, one) for one in (system, other))
    reach = min(max(float(kl.mean()) for kl in curve[::2]) for curve in (own, others))
    rows = []
    for share in SHARES:
        read = partial(_read_off, at=share * reach, split=1 + len(own))
        values = {
            name: asdict(bootstrap_interval(*base, *own, *others, statistic=partial(read, signs=signs)))
            for name, signs in ((_OWN, (1, 0)), (_OTHER, (0, 1)), (_LEAD, (1, -1)))
        }
        where = {"system": system, "against": other, "KL (nats)": round(share * reach, 2)}
        rows.append({"table": _MATCHED, "where": where, "values": values})
    return rows


def _curve(samples: Sequence[Sample], system: str) -> list[Array]:
    """KL and reward of every setting in turn, each `(seeds, prompts)`."""
    own = [one for one in samples if one["system"] == system]
    cells = ([one for one in own if one["setting"] == setting] for setting in dict.fromkeys(o["setting"] for o in own))
    return [grid(cell, name) for cell in cells for name in (KL, REWARD)]


def _read_off(*drawn: Array, at: float, split: int, signs: tuple[int, int]) -> Array:
    """Rewards of both curves at a KL, times these signs and added up, `(resamples,)`.

    Args:
        *drawn: the base's reward, the one curve and the other, each `(resamples, seeds, prompts)`.
        at: the KL, in nats.
        split: where the other curve begins.
        signs: of the one and of the other.
    """
    means = np.stack([values.mean((-2, -1)) for values in drawn], -1)
    start = np.stack([np.zeros(len(means)), means[:, 0]], -1)  # the base's KL is 0
    total = np.zeros(len(means))
    for sign, curve in zip(signs, (means[:, 1:split], means[:, split:]), strict=True):
        points = np.concatenate([start, curve], 1)
        total += sign * interpolated(points[:, ::2], points[:, 1::2], at)
    return total


def interpolated(kls: Array, rewards: Array, at: float) -> Array:
    """Rewards of curves at a KL, straight between their points; beyond the last, the line through the last two goes on.

    Args:
        kls: `(curves, points)`, in any order.
        rewards: likewise.
        at: the KL.

    Example:
        >>> interpolated(np.array([[0.0, 2.0, 1.0]]), np.array([[0.0, 6.0, 4.0]]), 1.5).tolist()
        [5.0]
    """
    order = kls.argsort(-1)
    kls, rewards = np.take_along_axis(kls, order, -1), np.take_along_axis(rewards, order, -1)
    after = (kls < at).sum(-1, keepdims=True).clip(1, kls.shape[-1] - 1)
    (x, y), (next_x, next_y) = (
        [np.take_along_axis(values, after - back, -1)[..., 0] for values in (kls, rewards)] for back in (1, 0)
    )
    return y + (next_y - y) * (at - x) / np.maximum(next_x - x, 1e-9)


# ---------------------------------------------------------------------- words and figure


def answer(rows: Sequence[Row]) -> str:
    """Against whom GenARM holds at how many distances, in a sentence."""
    parts = []
    for own, name in ((GENARM, ""), (DPO_ARM, "with an ARM trained by DPO, ")):
        for other in (DPO, SIMPO, SHARP_DPO):
            said = [verdict(row["values"][_LEAD], "better", "worse") for row in _compared(rows, own, other)]
            parts.append(f"{name}against {other}: better at {said.count('better')}, worse at {said.count('worse')}")
            name = ""
    return f"{'; '.join(parts)} of {len(SHARES)} equal distances from the base"


def _compared(rows: Sequence[Row], own: str, other: str) -> list[Row]:
    return [
        row
        for row in rows
        if row["table"] == _MATCHED and (row["where"]["system"], row["where"]["against"]) == (own, other)
    ]


def findings(rows: Sequence[Row]) -> list[str]:
    """Who is better at which KL."""
    found = []
    for own, others in OTHERS.items():
        for other in others:
            parts = []
            for row in _compared(rows, own, other):
                lead = row["values"][_LEAD]
                parts.append(
                    f"at {row['where']['KL (nats)']:g} nats {verdict(lead, 'better', 'worse')}, "
                    f"{lead['mean']:+.2f} points ({lead['low']:.2f} to {lead['high']:.2f})"
                )
            found.append(f"{own} against {other}: {'; '.join(parts)}.")
    best: dict[str, tuple[Any, Any, str]] = {}
    for row in rows:
        if row["table"] == _POINTS:
            name, reward = row["where"]["system"], row["values"][REWARD]
            if name not in best or reward["mean"] > best[name][0]["mean"]:
                best[name] = (reward, row["values"][KL], row["where"]["setting"])
    listed = (
        f"{name} ({setting or 'nothing to tune'}) {reward['mean']:.2f} at {kl['mean']:.1f} nats"
        for name, (reward, kl, setting) in best.items()
    )
    return [*found, f"The highest reward of each, whatever the KL: {'; '.join(listed)}."]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Reward against KL, a line a system; every line starts at the base. Who is far beyond is not shown."""
    title = f"{OBJECTIVE}: reward against divergence, up to {_SHOWN:g} nats"
    panel = Panel(title, "KL to the base (nats)", "oracle reward (points)")
    points = [row for row in rows if row["table"] == _POINTS]
    start = next((0.0, row["values"][REWARD]) for row in points if row["where"]["system"] == BASE)
    for row in points:
        name, values = row["where"]["system"], row["values"]
        if name != BASE and values[KL]["mean"] <= _SHOWN:
            panel.lines.setdefault(name, [start]).append((values[KL]["mean"], values[REWARD]))
    draw_panels([panel], path, width=6.0)
