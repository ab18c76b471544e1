"""Claim 3: an ARM on a weak base guides a strong one; how much of what training the strong base gains does it recover?

The weak base has a 19th of the strong one's parameters (a 5th in the fast lab). On the same pairs are trained: an ARM
and a DPO model of it (all weights), and a DPO model of the strong base (LoRA). Compared are the strong base guided by
the weak ARM; proxy tuning, which guides it by what DPO changed in the weak base (arXiv 2401.08565); weak DPO alone; and
strong DPO, whose gain over the strong base is the gap to recover. Alphas, and how strong DPO is trained, are chosen on
dev prompts for the highest reward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..decoding.guided_model import guide
from ..evaluation import gap_recovered
from ..modeling_implicit import ImplicitRewardModel
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm
from .policies import PolicyTraining, trained_policy
from .replies import KL, LARGE_BATCH, QUALITY, REWARD, judged, sampled_by_stages
from .samples import SAMPLES, Row, Sample, collect, grid, summarise
from .training_time import DPO, OBJECTIVE, SETTINGS, training

TITLE = "Weak to strong"
CLAIM = "A weak ARM guides a strong base without training it, and recovers over 70 % of what training it gains."

BASE, WEAK_BASE, WEAK_DPO, GUIDED, PROXY, STRONG_DPO = (
    "strong base",
    "weak base",
    "weak DPO",
    "strong base, guided by a weak ARM",
    "strong base, proxy-tuned",
    "strong DPO",
)
ALPHAS: dict[str, tuple[float, ...]] = {GUIDED: (0.5, 1.0, 2.0), PROXY: (0.5, 1.0, 2.0)}
DEV = "dev.jsonl"
GAP = "gap recovered"
ARM_RATE, DPO_RATE = 1e-3, 3e-4
"""Learning rates of all weights of the weak base; DPO at the ARM's comes apart."""
_WEAK = f"beta {PolicyTraining.beta:g}, rate {DPO_RATE:g}"
_TUNING, _SYSTEMS = "Tuning, on dev prompts", "Held-out prompts"


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train, tune, let all reply, and say what share of the gap is closed."""
    tried: dict[str, Any] = {**ALPHAS, STRONG_DPO: tuple(SETTINGS[DPO])}
    tuned = [{"system": name, "setting": one, "seed": 0} for name, several in tried.items() for one in several]
    dev = collect(output / DEV, tuned, lambda cell: _reply(lab, cell, lab.dev_prompts[:20]), progress)
    tuning = summarise(dev, ("system", "setting"), (REWARD, KL), table=_TUNING)
    settings = {**ALPHAS, STRONG_DPO: (chosen(tuning, STRONG_DPO),), WEAK_DPO: (_WEAK,)}
    cells = [
        {"system": name, "setting": setting, "seed": seed}
        for name in (BASE, WEAK_BASE, WEAK_DPO, PROXY, GUIDED, STRONG_DPO)
        for setting in settings.get(name, ("",))
        for seed in lab.seeds
    ]
    samples = collect(output / SAMPLES, cells, lambda cell: _reply(lab, cell, lab.prompts), progress)
    return [*with_gaps(summarise(samples, ("system", "setting"), QUALITY, table=_SYSTEMS), samples), *tuning]


def chosen(tuning: Sequence[Row], system: str) -> Any:
    """The setting with the highest reward on dev prompts."""
    rows = [row for row in tuning if row["where"]["system"] == system]
    return max(rows, key=lambda row: row["values"][REWARD]["mean"])["where"]["setting"]


def _reply(lab: Lab, cell: Mapping[str, Any], asked: Sequence[str]) -> list[Sample]:
    policy, others = _policy(lab, cell["system"], cell["setting"], cell["seed"])
    return judged(lab, sampled_by_stages(lab, policy), asked, cell["seed"], OBJECTIVE, others, LARGE_BATCH)


def _policy(lab: Lab, system: str, setting: Any, seed: int) -> tuple[Any, dict[str, Any]]:
    """A system's model, guided or not, and whom it asks besides the strong base."""
    if system == BASE:
        return lab.strong, {}
    if system == WEAK_BASE:
        return lab.weak, {"weak": lab.weak}
    if system == STRONG_DPO:
        policy = trained_policy(lab, training(lab, DPO, setting, seed))
        return policy, {"tuned": policy}
    if system == GUIDED:
        arm = trained_arm(lab, ArmTraining(OBJECTIVE, seed, lab.pairs_to_train_on, "weak", learning_rate=ARM_RATE))
        return guide(lab.strong, [arm], alpha=setting), {"reward": arm}
    weak = PolicyTraining("dpo", OBJECTIVE, seed, lab.pairs_to_train_on, backbone="weak", learning_rate=DPO_RATE)
    tuned = trained_policy(lab, weak)
    if system == WEAK_DPO:
        return tuned, {"tuned": tuned}
    guided = guide(lab.strong, [ImplicitRewardModel(tuned, lab.weak)], alpha=setting)
    return guided, {"tuned": tuned, "reference": lab.weak}


def with_gaps(rows: Sequence[Row], samples: Sequence[Sample]) -> list[Row]:
    """Rows with the share of strong DPO's gain that each system has: 0 for the strong base, 1 for strong DPO."""
    found = []
    for row in rows:
        name = row["where"]["system"]
        if name in (BASE, STRONG_DPO):
            found.append(row)
            continue
        own, floor, ceiling = (
            grid([one for one in samples if all(one[key] == value for key, value in where.items())], REWARD)
            for where in (row["where"], {"system": BASE}, {"system": STRONG_DPO})
        )
        gap = asdict(gap_recovered(own, floor, ceiling))
        found.append({**row, "values": {GAP: gap, **row["values"]}})
    return found


def answer(rows: Sequence[Row]) -> str:
    """The share of the gap that a weak ARM recovers, in a sentence."""
    alpha = chosen([row for row in rows if row["table"] == _TUNING], GUIDED)
    own = next(row for row in rows if row["table"] == _SYSTEMS and row["where"] == {"system": GUIDED, "setting": alpha})
    gap = own["values"][GAP]
    return f"a weak ARM recovers {gap['mean']:.0%} ({gap['low']:.0%} to {gap['high']:.0%}) of what strong DPO gains"


def findings(rows: Sequence[Row]) -> list[str]:
    """Shares of the gap, at the alphas chosen on dev prompts."""
    tuning = [row for row in rows if row["table"] == _TUNING]
    systems = [row for row in rows if row["table"] == _SYSTEMS]
    floor, ceiling = (next(row for row in systems if row["where"]["system"] == name) for name in (BASE, STRONG_DPO))
    found = [
        f"Strong base: {_words(floor, REWARD)} points. Strong DPO ({ceiling['where']['setting']}): "
        f"{_words(ceiling, REWARD)} points at {_words(ceiling, KL)} nats."
    ]
    for name in (GUIDED, PROXY, WEAK_DPO):
        setting = chosen(tuning, name) if name in ALPHAS else _WEAK
        row = next(row for row in systems if row["where"] == {"system": name, "setting": setting})
        label, gap = f"alpha {setting:g}" if name in ALPHAS else setting, row["values"][GAP]
        found.append(
            f"{name[0].upper()}{name[1:]} ({label}): {gap['mean']:.0%} of the gap ({gap['low']:.0%} to "
            f"{gap['high']:.0%}); {_words(row, REWARD)} points at {_words(row, KL)} nats."
        )
    return found


def _words(row: Row, name: str) -> str:
    value = row["values"][name]
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Reward against alpha and against KL; systems without an alpha are level lines, or points."""
    by_alpha = Panel("by alpha", "alpha", "oracle reward (points)")
    by_kl = Panel("by divergence", "KL to the strong base (nats)", "oracle reward (points)")
    for row in rows:
        if row["table"] == _SYSTEMS:
            name, reward = row["where"]["system"], row["values"][REWARD]
            places = (row["where"]["setting"],) if name in ALPHAS else (min(ALPHAS[GUIDED]), max(ALPHAS[GUIDED]))
            by_alpha.lines.setdefault(name, []).extend((place, reward) for place in places)
            by_kl.lines.setdefault(name, []).append((row["values"][KL]["mean"], reward))
    draw_panels([by_alpha, by_kl], path, width=5.0)
