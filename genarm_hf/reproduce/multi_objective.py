"""Claim 4: two objectives traded off at run time, against soups, mixtures, and training one model per trade-off.

Helpfulness and harmlessness conflict in this world. Each has an ARM and a model tuned by DPO (as in claim 2), on the
same pairs. How far each front is from the base is in the table. Every system gives several policies, from harmlessness
alone to helpfulness alone:

- GenARM: alphas of both ARMs in these shares, summing up to 1, or to 2 (which costs it nothing to try);
- GenARM with the DPO models as its ARMs: their loss is the ARM's with the base as a reference, and they are the very
  models that the systems below combine otherwise;
- MOD (arXiv 2406.18853): both DPO models mixed token by token, with weights likewise;
- Rewarded Soups (arXiv 2306.04488): their weights averaged;
- retrained: a DPO model for each trade-off, on labels of a judge who weighs the two objectives so.

How good they are together is the area that they dominate (hypervolume), and how far they are from the best points
of all systems (inverted generational distance). GenARM is compared with the others at the sum of the largest
hypervolume on dev prompts, with either kind of ARM; they are shown at all of theirs. Intervals resample prompts and
seeds, with a front for each resample.
"""

import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation import bootstrap_interval, hypervolume, inverted_generational_distance, non_dominated
from ..modeling_genarm import AutoregressiveRewardModel
from ..playground import score
from ..playground.preferences import PreferencePair, preference_probability
from .drawing import Drawn, draw
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm
from .policies import PolicyTraining, policy_folder
from .samples import SAMPLES, Row, Sample, collect, grid, summarise, verdict
from .stages import Generate

TITLE = "Several objectives: trade-offs chosen at run time"
CLAIM = (
    "With one ARM an objective, weights are chosen at decoding; the Pareto front dominates that of Rewarded Soups, and "
    "nothing is trained again for another trade-off."
)

OBJECTIVES = HELPFUL, HARMLESS = ("helpful", "harmless")
BASE, SOUPS, RETRAINED = "base", "Rewarded Soups of DPO models", "DPO, one model a weight"
TOTALS = (1.0, 2.0)
GENARM = {f"GenARM, alphas sum to {total:g}": total for total in TOTALS}
DPO_ARMS = {f"GenARM, ARMs trained by DPO, sum {total:g}": total for total in TOTALS}
MOD = {f"MOD of DPO models, sum {total:g}": total for total in TOTALS}
FRONTS = (*GENARM, *DPO_ARMS, *MOD, SOUPS, RETRAINED)
DEV = "dev.jsonl"
REFERENCE = (-8.0, -5.0)
"""Points below these count for nothing: two to four standard deviations of a reply's points below the base."""
_POINTS = "Points of the fronts"
_FRONTS = "Fronts: computed of their points, anew for each resample"
_COSTS = "What a front takes: all trade-offs, all prompts; in brackets the least and the most that a seed took"
_TUNING = "Tuning: fronts on dev prompts"
_AREA, _DISTANCE = "hypervolume", "distance to the best front (IGD)"
_LEAD, _DPO_LEAD = "hypervolume of GenARM minus it", "hypervolume of GenARM with ARMs trained by DPO minus it"
_LEADS = {_LEAD: GENARM, _DPO_LEAD: DPO_ARMS}
_KL = "mean KL to base"
_TRAINED, _CALLS, _PASSES, _SECONDS = FIELDS = ("models trained", "generate() calls", "passes over weights", "seconds")


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Draw every system's replies at every weight, and compare the fronts."""
    size = sizes(lab)
    tuned = [{"system": system, "seed": 0, **size} for system in (*GENARM, *DPO_ARMS)]
    dev_prompts, prompts = (some[: size["prompts"]] for some in (lab.dev_prompts, lab.prompts))
    dev = collect(output / DEV, tuned, lambda cell: _draw(lab, cell, dev_prompts), progress)
    tuning = tuning_rows([one for one in dev if "prompt" in one])
    cells = [{"system": system, "seed": seed, **size} for system in (BASE, *FRONTS) for seed in lab.seeds]
    samples = collect(output / SAMPLES, cells, lambda cell: _draw(lab, cell, prompts), progress)
    replies = [one for one in samples if "prompt" in one]
    return [
        *summarise(replies, ("system", "weight of helpful"), (*OBJECTIVES, "kl"), table=_POINTS),
        *front_rows(replies, {lead: chosen(tuning, family) for lead, family in _LEADS.items()}),
        *cost_rows([one for one in samples if _PASSES in one]),
        *tuning,
    ]


def cost_rows(samples: Sequence[Sample]) -> list[Row]:
    """A row a system: means over seeds, of which there may be one, with the least and the most for an interval.

    Args:
        samples: a line for each system and seed, with `FIELDS`.
    """
    rows = []
    for system in dict.fromkeys(one["system"] for one in samples):
        own = {name: [one[name] for one in samples if one["system"] == system] for name in FIELDS}
        values = {
            name: {"mean": sum(some) / len(some), "low": min(some), "high": max(some), "count": len(some)}
            for name, some in own.items()
        }
        rows.append({"table": _COSTS, "where": {"system": system}, "values": values})
    return rows


def chosen(tuning: Sequence[Row], family: Container[str]) -> str:
    """Of GenARM with one kind of ARM, the sum of alphas that dominates most on dev prompts."""
    own = [row for row in tuning if row["where"]["system"] in family]
    return max(own, key=lambda row: row["values"][_AREA]["mean"])["where"]["system"]


def sizes(lab: Lab) -> dict[str, int]:
    """Trade-offs of a front, prompts, and pairs of a training: each trade-off is a training for one of the systems."""
    return {"trade-offs": 3 if lab.fast else 4, "prompts": 20 if lab.fast else 60, "pairs": lab.pairs_to_train_on}


def answer(rows: Sequence[Row]) -> str:
    """Whose front is larger than GenARM's, in a sentence."""
    fronts, tuning = _fronts(rows), [row for row in rows if row["table"] == _TUNING]
    others = {system: values for system, values in fronts.items() if system not in (*GENARM, *DPO_ARMS)}
    parts = []
    for (lead, family), arms in zip(_LEADS.items(), ("GenARM's front", "with ARMs trained by DPO"), strict=True):
        said = [
            f"{verdict(values[lead], 'larger than', 'smaller than', 'not told apart from')} {name}"
            for name, values in others.items()
        ]
        parts.append(f"{arms}, at {fronts[chosen(tuning, family)][_KL]['mean']:.1f} nats: {', '.join(said)}")
    kls = [values[_KL]["mean"] for values in others.values()]
    return f"{'; '.join(parts)} (at {min(kls):.1f} to {max(kls):.1f} nats)"


def _fronts(rows: Sequence[Row]) -> dict[str, Any]:
    return {row["where"]["system"]: row["values"] for row in rows if row["table"] == _FRONTS}


def findings(rows: Sequence[Row]) -> list[str]:
    """Which front is best, by how much, and at what price."""
    fronts, tuning = _fronts(rows), [row for row in rows if row["table"] == _TUNING]
    costs = {row["where"]["system"]: row["values"] for row in rows if row["table"] == _COSTS}
    best = max(fronts, key=lambda system: fronts[system][_AREA]["mean"])
    found = [f"The largest hypervolume is that of {best} ({fronts[best][_AREA]['mean']:.1f})."]
    for lead, family in _LEADS.items():
        own = chosen(tuning, family)
        for system in (*MOD, SOUPS, RETRAINED):
            values = fronts[system][lead]
            found.append(
                f"{own} (chosen on dev prompts) against {system}: hypervolume {verdict(values, 'larger', 'smaller')}, "
                f"by {values['mean']:.1f} ({values['low']:.1f} to {values['high']:.1f}); mean KL "
                f"{fronts[own][_KL]['mean']:.1f} against {fronts[system][_KL]['mean']:.1f} nats."
            )
    calls = "; ".join(
        f"{system}: {costs[system][_TRAINED]['mean']:.0f} models trained, {costs[system][_CALLS]['mean']:.0f} calls, "
        f"{costs[system][_PASSES]['mean']:.0f} passes"
        for system in (chosen(tuning, GENARM), next(iter(MOD)), SOUPS, RETRAINED)
    )
    return [
        *found,
        f"GenARM and MOD decode all trade-offs in one batch, a row each. A front takes: {calls}.",
        "MOD with weights that sum to 1 is the base guided by `ImplicitRewardModel(DPO model, base)` with these "
        "alphas: the same call to `generate()` with other reward models. The DPO models as ARMs keep what MOD takes "
        "away, the base's own log-probabilities, and so sharpen it.",
    ]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Harmlessness against helpfulness, a line a system."""
    panel = Panel("trade-offs (oracle points)", "helpful", "harmless")
    for row in rows:
        if row["table"] == _POINTS:
            point = (row["values"][HELPFUL]["mean"], row["values"][HARMLESS])
            panel.lines.setdefault(row["where"]["system"], []).append(point)
    draw_panels([panel], path, width=7.0)


# ---------------------------------------------------------------------- drawing


def _draw(lab: Lab, cell: Mapping[str, Any], prompts: Sequence[str]) -> Iterator[Sample]:
    """Replies of a system at every weight, and what they cost."""
    if cell["system"] == BASE:
        rows: list[tuple[float | None, int]] = [(None, number) for number in range(len(prompts))]
        yield from _labelled(rows, draw(lab, _plain(lab.strong), prompts, cell["seed"], OBJECTIVES))
        return
    calls = list(_calls(lab, cell, prompts))
    for rows, drawn in calls:
        yield from _labelled(rows, drawn)
    yield {
        _TRAINED: cell["trade-offs"] if cell["system"] == RETRAINED else len(OBJECTIVES),
        _CALLS: sum(drawn.calls for _, drawn in calls),
        _PASSES: sum(drawn.passes for _, drawn in calls),
        _SECONDS: sum(drawn.seconds for _, drawn in calls),
    }


def _labelled(rows: Sequence[tuple[float | None, int]], drawn: Drawn) -> Iterator[Sample]:
    for (weight, prompt), sample in zip(rows, drawn.samples, strict=True):
        yield {"weight of helpful": weight, "prompt": prompt, **sample}


def _calls(
    lab: Lab, cell: Mapping[str, Any], prompts: Sequence[str]
) -> Iterator[tuple[list[tuple[float | None, int]], Drawn]]:
    """Rows of weight and prompt with their replies: all weights in one batch, or a batch a weight."""
    system = cell["system"]
    weights = np.linspace(0, 1, cell["trade-offs"]).tolist()
    if system in (SOUPS, RETRAINED):
        for weight in weights:
            policy = _plain((_soup if system == SOUPS else tuned)(lab, weight, cell))
            rows = [(weight, number) for number in range(len(prompts))]
            yield list(rows), draw(lab, policy, prompts, cell["seed"], OBJECTIVES)
        return
    rows = [(weight, number) for number in range(len(prompts)) for weight in weights]
    alpha = (GENARM | DPO_ARMS | MOD)[system] * torch.tensor([[weight, 1 - weight] for weight, _ in rows])
    policy = (_mod if system in MOD else _genarm)(lab, cell)
    yield list(rows), draw(lab, policy, [prompts[number] for _, number in rows], cell["seed"], OBJECTIVES, alpha)


def _plain(model: Any) -> Generate:
    return lambda alpha, **kwargs: model.generate(**kwargs)


def _genarm(lab: Lab, cell: Mapping[str, Any]) -> Generate:
    """Each row has its own trade-off; base and ARMs run in one pass over the base's weights."""
    if cell["system"] in DPO_ARMS:
        arms = [tuned(lab, weight, cell) for weight in (1.0, 0.0)]
    else:
        options = {"pairs": cell["pairs"], "learning_rate": lab.reward_rate}
        arms = [trained_arm(lab, ArmTraining(objective, cell["seed"], **options)) for objective in OBJECTIVES]
    return lambda alpha, **kwargs: lab.strong.generate(reward_models=arms, alpha=alpha, share_backbone=True, **kwargs)


def _mod(lab: Lab, cell: Mapping[str, Any]) -> Generate:
    from ..baselines import mod_generate

    models = [tuned(lab, weight, cell) for weight in (1.0, 0.0)]
    return lambda alpha, **kwargs: mod_generate(lab.strong, models, alpha, **kwargs)


def _soup(lab: Lab, weight: float, cell: Mapping[str, Any]) -> Any:
    from ..baselines.rewarded_soups import rewarded_soup

    return rewarded_soup([tuned(lab, one, cell) for one in (1.0, 0.0)], [weight, 1 - weight])


# ---------------------------------------------------------------------- training


def tuned(lab: Lab, weight: float, cell: Mapping[str, Any]) -> Any:
    """The strong base tuned by DPO for one trade-off: a LoRA adapter on the weights of `lab.strong`.

    Args:
        lab: of base and replies.
        weight: of helpfulness.
        cell: `seed` and number of `pairs`.
    """
    objective = {0.0: HARMLESS, 1.0: HELPFUL}.get(weight, f"mixed-{weight:g}")
    training = PolicyTraining("dpo", objective, cell["seed"], cell["pairs"], epochs=2)
    folder = policy_folder(lab, training, lambda: mixed_pairs(lab, weight, cell["pairs"], cell["seed"]))
    return AutoregressiveRewardModel.from_pretrained(folder, base_model=lab.strong).eval()


def mixed_pairs(lab: Lab, weight: float, n: int, seed: int) -> list[PreferencePair]:
    """The replies that ARMs are trained on, labelled by a judge who weighs the objectives; alone, by the same draws."""
    if weight in (0.0, 1.0):
        return lab.pairs(HELPFUL if weight else HARMLESS, n, seed)
    rng = random.Random(f"{seed} {weight}")
    return [_relabelled(pair, weight, rng) for pair in lab.pairs(HELPFUL, n, seed)]


def _relabelled(pair: PreferencePair, weight: float, rng: random.Random) -> PreferencePair:
    prompt, first, second = pair["prompt"], pair["chosen"], pair["rejected"]
    points = [score(objective, prompt, first) - score(objective, prompt, second) for objective in OBJECTIVES]
    kept = rng.random() < preference_probability(weight * points[0] + (1 - weight) * points[1])
    return pair if kept else PreferencePair(prompt=prompt, chosen=second, rejected=first)


# ---------------------------------------------------------------------- fronts


def tuning_rows(samples: Sequence[Sample]) -> list[Row]:
    """A row for each of GenARM's fronts: its area.

    Args:
        samples: replies of GenARM at all of them, to the same prompts.
    """
    systems = (*GENARM, *DPO_ARMS)
    points = _points(samples, systems)
    rows = []
    for at, system in enumerate(systems):
        read = partial(_of_fronts, partial(_area_of, at), len(systems))
        values = {_AREA: asdict(bootstrap_interval(*points, statistic=read, resamples=1000))}
        rows.append({"table": _TUNING, "where": {"system": system}, "values": values})
    return rows


def _points(samples: Sequence[Sample], systems: Sequence[str]) -> list[NDArray[np.float64]]:
    """Points of replies, each `(seeds, prompts)`, in the order of systems, weights and objectives."""
    weights = sorted({one["weight of helpful"] for one in samples} - {None})
    replies = [
        [one for one in samples if (one["system"], one["weight of helpful"]) == key]
        for key in product(systems, weights)
    ]
    return [grid(some, objective) for some in replies for objective in OBJECTIVES]


def front_rows(samples: Sequence[Sample], chosen: Mapping[str, str]) -> list[Row]:
    """A row for each front: its area, by how much GenARM's are larger, and its distance to the best of all.

    Args:
        samples: replies of all systems, all with the same prompts and seeds.
        chosen: names of such differences, and whose front each is taken from.
    """
    points = _points(samples, FRONTS)
    weights = sorted({one["weight of helpful"] for one in samples} - {None})
    rows = []
    for at, system in enumerate(FRONTS):
        statistics: dict[str, Callable[[NDArray[np.float64]], float]] = {_AREA: partial(_area_of, at)}
        statistics |= {lead: partial(_larger, FRONTS.index(own), at) for lead, own in chosen.items() if own != system}
        statistics[_DISTANCE] = partial(_distance_of, at)
        values = {
            name: asdict(bootstrap_interval(*points, statistic=partial(_of_fronts, of, len(FRONTS)), resamples=1000))
            for name, of in statistics.items()
        }
        distances = [
            grid([one for one in samples if (one["system"], one["weight of helpful"]) == (system, weight)], "kl")
            for weight in weights
        ]
        values[_KL] = asdict(bootstrap_interval(np.mean(distances, 0)))
        rows.append({"table": _FRONTS, "where": {"system": system}, "values": values})
    return rows


def _of_fronts(
    of: Callable[[NDArray[np.float64]], float], systems: int, *points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A number of fronts `(systems, weights, objectives)`, for each resample.

    Args:
        of: the number.
        systems: how many.
        *points: `(resamples, seeds, prompts)`, in the order of systems, weights and objectives.
    """
    means = np.stack([values.mean((-2, -1)) for values in points], -1)
    fronts = means.reshape(len(means), systems, -1, len(OBJECTIVES))
    return np.array([of(front) for front in fronts])


def _area_of(system: int, fronts: NDArray[np.float64]) -> float:
    return _area(fronts[system])


def _larger(system: int, other: int, fronts: NDArray[np.float64]) -> float:
    return _area(fronts[system]) - _area(fronts[other])


def _distance_of(system: int, fronts: NDArray[np.float64]) -> float:
    return _distance(fronts[system], fronts)


def _area(points: NDArray[np.float64]) -> float:
    return hypervolume(points, REFERENCE)


def _distance(points: NDArray[np.float64], fronts: NDArray[np.float64]) -> float:
    """From each of the best points of all systems that count to the nearest of these points, on average."""
    every = fronts.reshape(-1, len(OBJECTIVES))
    every = every[(every > REFERENCE).all(-1)]
    return inverted_generational_distance(points, every[non_dominated(every)])
