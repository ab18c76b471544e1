"""Claim 1: GenARM against methods that align at test time, all guided by reward models of the same pairs and backbone.

An ARM (GenARM), a trajectory-level reward model (ARGS, Transfer-Q, CARDS, best-of-N) and a prefix value learned from it
(tokenwise and blockwise controlled decoding) are LoRA adapters of one rank on the strong base, trained on the same
pairs. Transfer-Q's rollouts are written by a DPO model of these pairs. Two controls: the base, and the base sharpened
as much as GenARM sharpens it (an ARM that has learned nothing; which is the base at temperature 1 / (1 + alpha)).

Every method is tuned on the same dev prompts with the same number of settings; the one of the highest oracle reward is
run on the held-out prompts. GenARM and best-of-N are run at all of theirs, for their curves. Slow methods answer fewer
of the prompts; they are compared with GenARM on those alone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..decoding.guided_model import guide
from ..evaluation import compare
from ..files import written_whole
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm, trained_prefix_value, trained_trajectory_reward
from .policies import trained_policy
from .replies import BASE_TOKENS, COSTS, KL, OTHER_TOKENS, QUALITY, REWARD, SECONDS, decoded, judged, sampled
from .samples import SAMPLES, Row, Sample, collect, summarise, verdict
from .training_time import DPO, SETTINGS, training

TITLE = "Against other test-time methods"
CLAIM = (
    "GenARM significantly outperforms prior test-time methods (ARGS, Transfer-Q), which use trajectory-level reward "
    "models, at a lower inference cost."
)

OBJECTIVE = "helpful"
GENARM, BASE, SHARPENED, BEST_OF_N = "GenARM", "base", "sharpened base", "best-of-N"
BOUND = "KL bound"
DEV, DUELS = "dev.jsonl", "duels.jsonl"
_TUNING, _SYSTEMS, _DUELS = "Tuning, on dev prompts", "Held-out prompts", "GenARM against each, on the same prompts"
_WIN, _TIE, _LOSS, _LEAD = DUEL = ("win", "tie", "loss", "reward of GenARM minus it")
Setting = Mapping[str, Any]


class Guides:
    """What methods are guided by, of one seed; loaded when first asked for."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._seed = lab, seed
        self._training = ArmTraining(OBJECTIVE, seed, lab.pairs_to_train_on, learning_rate=lab.reward_rate)

    @cached_property
    def arm(self) -> Any:
        """GenARM's."""
        return trained_arm(self._lab, self._training)

    @cached_property
    def reward(self) -> Any:
        """Of whole replies."""
        return _reward(trained_trajectory_reward(self._lab, self._training))

    @cached_property
    def value(self) -> Any:
        """Of unfinished replies."""
        return _reward(trained_prefix_value(self._lab, self._training))

    @cached_property
    def policy(self) -> Any:
        """Writes Transfer-Q's rollouts."""
        return trained_policy(self._lab, training(self._lab, DPO, next(iter(SETTINGS[DPO])), self._seed))

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of what the reward model says of the base's replies, those of the pairs."""
        pairs = self._lab.pairs(OBJECTIVE, self._lab.pairs_to_train_on, self._seed)[:100]
        prompts = [pair["prompt"] for pair in pairs]
        self.reward.tokenizer = self._lab.tokenizer
        scores = self.reward.score(prompts, [pair["chosen"] for pair in pairs], batch_size=50)
        return float(scores.mean()), float(scores.std())


def _reward(model: Any) -> Any:
    from ..baselines.trajectory_rewards import TrajectoryReward

    return TrajectoryReward(model)


@dataclass
class Asked:
    """A system, and what is known of it.

    Attributes:
        system: as [`judged`] takes it.
        others: models that it asks besides the base.
        bound: on its divergence from the base in nats, where only that is known.
    """

    system: Any
    others: dict[str, Any] = field(default_factory=dict)
    bound: float | None = None


@dataclass(frozen=True)
class Effort:
    """How much a method is asked for: numbers of held-out prompts, dev prompts and seeds."""

    prompts: int
    dev_prompts: int
    seeds: int


EFFORTS = {
    False: {"quick": Effort(300, 20, 5), "slow": Effort(40, 20, 5), "slowest": Effort(6, 4, 2)},
    True: {"quick": Effort(30, 8, 1), "slow": Effort(16, 8, 1), "slowest": Effort(4, 2, 1)},
}
"""By whether the lab is the fast one. All take the first of the same prompts and seeds."""


@dataclass(frozen=True)
class Method:
    """A way to decode.

    Attributes:
        ask: the system with a setting.
        grid: its settings, as many as every other method has; or none to choose.
        speed: what it is asked for, see `EFFORTS`.
    """

    ask: Callable[[Lab, Guides, Setting], Asked]
    grid: Sequence[Setting] = ({},)
    speed: str = "quick"

    def named(self, lab: Lab) -> dict[str, Setting]:
        """Settings by their names; the fast lab has the middle two."""
        grid = self.grid[1:3] if lab.fast and len(self.grid) > 1 else self.grid
        return {", ".join(f"{name} {value:g}" for name, value in one.items()): one for one in grid}


# ---------------------------------------------------------------------- the methods


def _base(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    return Asked(sampled(lab, lab.strong))


def _sharpened(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    return Asked(sampled(lab, lab.strong, temperature=1 / (1 + setting["alpha"])))


def _genarm(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    policy = guide(lab.strong, [guides.arm], alpha=setting["alpha"])
    return Asked(sampled(lab, policy), {"reward": guides.arm})


def _best_of_n(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    from ..baselines.best_of_n import best_of_n_generate

    n = setting["n"]
    asked = _by(lab, best_of_n_generate, guides.reward, n=n)
    asked.bound = math.log(n) - (n - 1) / n  # arXiv 2009.01325, appendix G.3; a bound (2401.01879)
    return asked


def _args(do_sample: bool) -> Callable[[Lab, Guides, Setting], Asked]:
    def ask(lab: Lab, guides: Guides, setting: Setting) -> Asked:
        from ..baselines.args_decoding import args_generate

        return _by(lab, args_generate, guides.reward, do_sample=do_sample, **setting)

    return ask


def _cards(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    from ..baselines.cards import cards_generate

    mean, deviation = guides.scale
    options = {"target_reward": mean + setting["target"] * deviation, "beta": 0.5 * deviation}
    return _by(lab, cards_generate, guides.reward, entropy_threshold=setting["entropy"], **options)


def _value_guided(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    from ..baselines.value_guided import value_guided_generate

    return _by(lab, value_guided_generate, guides.value, k=10, **setting)


def _blockwise(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    from ..baselines.value_guided import blockwise_generate

    return _by(lab, blockwise_generate, guides.value, k=setting["k"], block_size=setting["block"])


def _transfer_q(lab: Lab, guides: Guides, setting: Setting) -> Asked:
    from ..baselines.transfer_q import transfer_q_generate

    asked = _by(lab, transfer_q_generate, guides.reward, policy=guides.policy, rollout_tokens=20, **setting)
    asked.others["policy"] = guides.policy
    return asked


def _by(lab: Lab, decode: Callable[..., Any], reward: Any, **options: Any) -> Asked:
    return Asked(decoded(lab, decode, reward, **options), others={"reward": reward.model})


METHODS = {
    BASE: Method(_base),
    SHARPENED: Method(_sharpened),
    GENARM: Method(_genarm, [{"alpha": alpha} for alpha in (0.5, 1.0, 2.0, 4.0)]),
    BEST_OF_N: Method(_best_of_n, [{"n": n} for n in (2, 4, 8, 16)], "slow"),
    "ARGS-greedy": Method(_args(False), [{"w": w} for w in (0.1, 0.3, 1.0, 3.0)], "slow"),
    "ARGS-stochastic": Method(_args(True), [{"w": w} for w in (0.1, 0.3, 1.0, 3.0)], "slow"),
    "CARDS": Method(_cards, [{"target": z, "entropy": 2.0} for z in (-1.0, 0.0, 1.0, 2.0)], "slow"),
    "tokenwise value (CD)": Method(_value_guided, [{"weight": weight} for weight in (1.0, 3.0, 10.0, 30.0)], "slow"),
    "blockwise best-of-K (CD)": Method(_blockwise, [{"k": k, "block": b} for k in (4, 8) for b in (16, 8)], "slow"),
    "Transfer-Q": Method(_transfer_q, [{"alpha": alpha} for alpha in (1.0, 0.3, 0.1, 0.03)], "slowest"),
}
"""All sample at temperature 1, but for ARGS: greedy, or at 0.7 as in its code. Grids are in the order of strength."""


# ---------------------------------------------------------------------- the claim


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Tune every method, let it reply, and compare GenARM with each."""
    tuned = [{"method": name, "setting": one, "seed": 0} for name in METHODS for one in METHODS[name].named(lab) if one]
    dev = collect(output / DEV, tuned, lambda cell: _reply(lab, cell, dev=True), progress)
    tuning = summarise(dev, ("method", "setting"), (REWARD,), table=_TUNING)
    samples = collect(output / SAMPLES, _cells(lab, chosen(tuning)), lambda cell: _reply(lab, cell), progress)
    duels = against(samples, chosen(tuning))
    with written_whole(output / DUELS) as draft:
        draft.write_text("".join(json.dumps(duel) + "\n" for duel in duels), encoding="utf-8")
    return [
        *summarise(samples, ("method", "setting"), (*QUALITY, BOUND, *COSTS), table=_SYSTEMS),
        *summarise(duels, ("method", "setting"), DUEL, table=_DUELS),
        *tuning,
    ]


def chosen(tuning: Sequence[Row]) -> dict[str, str]:
    """Of every method with a choice, the setting of the highest reward."""
    best: dict[str, Row] = {}
    for row in tuning:
        method = row["where"]["method"]
        if method not in best or row["values"][REWARD]["mean"] > best[method]["values"][REWARD]["mean"]:
            best[method] = row
    return {method: row["where"]["setting"] for method, row in best.items()}


def _cells(lab: Lab, choice: Mapping[str, str]) -> list[dict[str, Any]]:
    """What is run on the held-out prompts: the chosen settings, and for curves the others too, on fewer prompts."""
    cells = []
    for name, method in METHODS.items():
        curve = list(method.named(lab)) if name in (GENARM, BEST_OF_N) else []
        best = choice[GENARM] if name == SHARPENED else choice.get(name, "")
        for setting in curve or [best]:
            effort = EFFORTS[lab.fast][method.speed if setting == best else "slow"]
            where = {"method": name, "setting": setting, "prompts": effort.prompts}
            cells += [{**where, "seed": seed} for seed in lab.seeds[: effort.seeds]]
    return cells


def _reply(lab: Lab, cell: Mapping[str, Any], dev: bool = False) -> list[Sample]:
    method = METHODS[cell["method"]]
    named = METHODS[GENARM if cell["method"] == SHARPENED else cell["method"]].named(lab)
    asked = method.ask(lab, Guides(lab, cell["seed"]), named[cell["setting"]])
    prompts = lab.dev_prompts[: EFFORTS[lab.fast][method.speed].dev_prompts] if dev else lab.prompts[: cell["prompts"]]
    samples = judged(lab, asked.system, prompts, cell["seed"], OBJECTIVE, asked.others)
    return [{**sample, BOUND: asked.bound} for sample in samples]


def against(samples: Sequence[Sample], choice: Mapping[str, str]) -> list[Sample]:
    """GenARM at its chosen alpha against every other reply to the same prompt under the same seed."""
    own = {
        (sample["seed"], sample["prompt"]): sample[REWARD]
        for sample in samples
        if sample["method"] == GENARM and sample["setting"] == choice[GENARM]
    }
    duels = []
    for other in samples:
        if other["method"] != GENARM:
            lead = own[other["seed"], other["prompt"]] - other[REWARD]
            outcome = int(compare(np.array([lead]), np.zeros(1), tolerance=1e-9)[0])
            shares = {_WIN: float(outcome == 1), _TIE: float(outcome == 0), _LOSS: float(outcome == -1)}
            where = {name: other[name] for name in ("method", "setting", "seed", "prompt")}
            duels.append({**where, **shares, _LEAD: lead})
    return duels


def answer(rows: Sequence[Row]) -> str:
    """Whom GenARM beats, in a sentence."""
    choice = chosen([row for row in rows if row["table"] == _TUNING])
    duels = {tuple(row["where"].values()): row["values"][_LEAD] for row in rows if row["table"] == _DUELS}
    leads = {method: duels[method, setting] for method, setting in choice.items() if method != GENARM}
    beaten = [lead["mean"] for lead in leads.values() if lead["low"] > 0]
    others = [
        f"{verdict(lead, 'better than', 'worse than', 'not told apart from')} {method}"
        for method, lead in leads.items()
        if lead["low"] <= 0
    ]
    alike = verdict(duels[SHARPENED, choice[GENARM]], "better than", "worse than", "not told apart from")
    reach = f", by {min(beaten):.1f} to {max(beaten):.1f} points" if beaten else ""
    return "; ".join(
        [f"better than {len(beaten)} of {len(leads)} methods{reach}", *others, f"{alike} the base sharpened as much"]
    )


def findings(rows: Sequence[Row]) -> list[str]:
    """Whom GenARM beats, and at which cost."""
    choice = chosen([row for row in rows if row["table"] == _TUNING])
    systems = [row for row in rows if row["table"] == _SYSTEMS]
    own = next(row for row in systems if _is(row, GENARM, choice[GENARM]))
    found = [
        f"GenARM ({choice[GENARM]}): reward {_of(own, REWARD)}, KL {_of(own, KL)} nats; {_read(own):.1f} tokens read "
        f"and {_of(own, SECONDS)} s spent for a token and 128 tokens written."
    ]
    compared = {BASE: "", SHARPENED: choice[GENARM], **choice}
    duels = [row for row in rows if row["table"] == _DUELS]
    found += [_duel(row) for row in duels if row["where"]["setting"] == compared[row["where"]["method"]]]
    return [*found, _equal_cost(own, systems, duels)]


def _duel(row: Row) -> str:
    lead = row["values"][_LEAD]
    said = verdict(lead, "better than", "worse than", "not told apart from")
    shares = " / ".join(f"{row['values'][name]['mean']:.0%}" for name in (_WIN, _TIE, _LOSS))
    return (
        f"GenARM is {said} {row['where']['method']} ({row['where']['setting'] or 'nothing to tune'}): by "
        f"{lead['mean']:.2f} points ({lead['low']:.2f} to {lead['high']:.2f}); win / tie / loss {shares}, "
        f"{lead['count']} replies."
    )


def _equal_cost(own: Row, systems: Sequence[Row], duels: Sequence[Row]) -> str:
    """Which of best-of-N's settings cost no more, and which reach GenARM's reward."""
    curve = [row for row in systems if row["where"]["method"] == BEST_OF_N]
    cheap = [row["where"]["setting"] for row in curve if _read(row) <= _read(own)]
    leads = {row["where"]["setting"]: row["values"][_LEAD] for row in duels if row["where"]["method"] == BEST_OF_N}
    level = [name for name, lead in leads.items() if lead["low"] <= 0]
    costs = ", ".join(f"{row['where']['setting']}: {_read(row):.1f}" for row in curve)
    return (
        f"Best-of-N, tokens read for a token written: {costs}. No dearer than GenARM: {', '.join(cheap) or 'none'}. "
        f"As good as GenARM, or not told apart from it: {', '.join(level) or 'none'}."
    )


def _is(row: Row, method: str, setting: str) -> bool:
    return row["where"]["method"] == method and row["where"]["setting"] == setting


def _of(row: Row, name: str) -> str:
    value = row["values"][name]
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _read(row: Row) -> float:
    """Tokens that all models together read for every token written."""
    return row["values"][BASE_TOKENS]["mean"] + row["values"][OTHER_TOKENS]["mean"]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Reward against cost, by tokens and by the clock, and against divergence where it is known."""
    title = f"{OBJECTIVE}: oracle reward"
    tokens = Panel("by work", "tokens read by all models, per token written", title, xscale="log")
    seconds = Panel("by the clock", SECONDS, title, xscale="log")
    divergence = Panel("by divergence", "KL to the base, nats (best-of-N: its bound)", title)
    for row in rows:
        if row["table"] == _SYSTEMS:
            values, name = row["values"], row["where"]["method"]
            distance = values.get(KL, values.get(BOUND))
            places = (_read(row), values[SECONDS]["mean"], distance and distance["mean"])
            for panel, place in zip((tokens, seconds, divergence), places, strict=True):
                points = panel.lines.setdefault(name, [])
                if place is not None:
                    points.append((place, values[REWARD]))
    draw_panels([tokens, seconds, divergence], path)
