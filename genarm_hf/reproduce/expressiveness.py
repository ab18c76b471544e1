"""Claim 5: token-level guidance loses nothing in expressiveness. Exactly, on worlds that can be enumerated.

Three statements must be kept apart, and each is measured here without sampling (`worlds`):

- **The theorem**: for every reward of whole texts there is an ARM that guides the base to the optimum of the
  KL-regularised objective, token by token. It is constructed, and its distance to the optimum is rounding.
- **What training finds**: with infinite data, the paper's loss leads to `log pi_r(y|x) = reward(y) + constant`, and no
  other ARM. Reweighting whole texts by it, `base * pi_r**alpha / Z`, is the optimum.
- **What decoding makes of it**: normalising every token instead gives another distribution, whose distance to the
  optimum does not vanish with training. It is zero if `alpha log pi_r(v|s) = U(sv) - U(s) + c(s)` for the soft value
  `U(s) = log E_base exp(alpha reward)` of a prefix and some `c` whose sum is the same for all texts
  (docs/concepts/guidance.md): texts of one token, or a base that is uniform and alpha 1.

The gap can be closed in training: with `log pi_guided(y) - log pi_base(y)` as the reward in the same loss (DPO, arXiv
2305.18290, with the guided base as its policy), the minimum is an ARM of the theorem, for the alpha of the training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import worlds
from .figures import Panel, draw_panels
from .lab import Lab
from .samples import SAMPLES, Row, Sample, collect, summarise
from .worlds import Tables

TITLE = "Expressiveness: what token-level guidance can reach, and what training makes it reach"
CLAIM = (
    "For any reward of whole texts some ARM guides a frozen base, token by token, to the optimum of the KL-regularised "
    "objective (theorem); how far trained ARMs are from it is left open."
)

ALPHAS = (0.5, 1.0, 2.0)
ORDERS = (0, 1, 2)  # an ARM that sees its position and so many tokens before
PAIRS = (100, 1000, 10_000)
_RATE = 0.1
_REWARDS = ("independent", "additive")
_TRAINED = ("trained", "trained through the policy")
_GUIDED, _REWEIGHTED, _SHARE = "guided to optimum", "reweighted to optimum", "share of gain"
_SHORT = {
    "100 pairs": "that has seen 100 pairs, and stopped in time,",
    "10000 pairs": "that has seen 10,000 pairs, and stopped in time,",
    "sees 0 tokens": "that sees no token before",
    "sees 1 tokens": "that sees one token before",
}
_DISTANCES = (_GUIDED, _REWEIGHTED, "guided to reweighted", "base to optimum", _SHARE)
_COMMON = (4, 4)
_FINAL = "When training has ended: distances in nats"
_SHAPES = "When training has ended, in larger and smaller worlds"
_CURVES = "As training goes on"
_LINES = (
    ("trained as in the paper, guided", "trained", _GUIDED),
    ("trained as in the paper, whole texts reweighted", "trained", _REWEIGHTED),
    ("trained through the policy, guided", "trained through the policy", _GUIDED),
)


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train ARMs on random worlds and measure exact distances."""
    samples = collect(output / SAMPLES, _cells(lab.fast), _measure, progress)
    common = [one for one in samples if (one["vocab"], one["length"]) == _COMMON]
    ended = [one for one in samples if one["step"] in (0, one["steps"])]
    return [
        *_rows([one for one in ended if (one["vocab"], one["length"]) == _COMMON], _FINAL),
        *_rows([one for one in ended if one["arm"] in _TRAINED], _SHAPES),
        *_rows([one for one in common if one["arm"] in _TRAINED], _CURVES),
    ]


def answer(rows: Sequence[Row]) -> str:
    """Whether the theorem holds, and what the paper's loss makes of it, in a sentence."""
    final = {
        (row["where"]["arm"], row["where"]["alpha"]): row["values"][_GUIDED]
        for row in rows
        if row["table"] == _FINAL and row["where"]["reward"] == "independent"
    }
    theorem = max(final["of the theorem", alpha]["high"] for alpha in ALPHAS)
    gaps = " / ".join(f"{final[_TRAINED[0], alpha]['mean']:.3f}" for alpha in ALPHAS)
    return (
        f"the theorem holds (to {theorem:.0e} nats); the paper's loss ends {gaps} nats from the optimum "
        f"at alpha {' / '.join(f'{alpha:g}' for alpha in ALPHAS)}"
    )


def findings(rows: Sequence[Row]) -> list[str]:
    """What the distances say, at each alpha in turn."""
    final = {
        (row["where"]["arm"], row["where"]["reward"], row["where"]["alpha"]): row["values"]
        for row in rows
        if row["table"] == _FINAL
    }

    def at(arm: str, field: str, form: str, reward: str = "independent") -> str:
        return " / ".join(f"{final[arm, reward, alpha][field]['mean']:{form}}" for alpha in ALPHAS)

    theorem = max(final["of the theorem", reward, alpha][_GUIDED]["high"] for reward in _REWARDS for alpha in ALPHAS)
    alphas = " / ".join(f"{alpha:g}" for alpha in ALPHAS)
    paper, policy = _TRAINED
    return [
        f"The theorem holds: the ARM that it constructs guides to the optimum within {theorem:.0e} nats (rounding).",
        f"The paper's loss leads to another ARM. At alpha {alphas}, reweighting whole texts by it is the optimum up to "
        f"{at(paper, _REWEIGHTED, '.0e')} nats; guidance token by token stays {at(paper, _GUIDED, '.3f')} nats away "
        f"(with additive rewards {at(paper, _GUIDED, '.3f', 'additive')}), however long the training.",
        f"Guidance by it reaches {at(paper, _SHARE, '.1%')} of what the optimum gains over the base "
        f"(additive: {at(paper, _SHARE, '.1%', 'additive')}); by an untrained ARM, which sharpens the base, "
        f"{at('untrained', _SHARE, '.0%')}.",
        "Trained through the guided policy (same pairs and loss, the reward being log pi_guided - log pi_base), an ARM "
        f"guides to the optimum token by token, up to {at(policy, _GUIDED, '.0e')} nats. Its alpha is fixed in "
        "training, and training reads the base.",
        *(
            f"An ARM {what} is {at(arm, _REWEIGHTED, '.3f')} nats from the optimum by reweighting whole texts, and "
            f"{at(arm, _GUIDED, '.3f')} by guidance."
            for arm, what in _SHORT.items()
        ),
    ]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Distance to the optimum as training goes on, and against the reweighting of whole texts."""
    curves = [row for row in rows if row["table"] == _CURVES and row["where"]["reward"] == "independent"]
    panels = []
    for alpha in ALPHAS:
        panel = Panel(f"alpha {alpha:g}", "steps of exact gradient", "KL to the optimum (nats)", "log", "log")
        for label, arm, field in _LINES:
            chosen = [r for r in curves if (r["where"]["arm"], r["where"]["alpha"]) == (arm, alpha)]
            panel.lines[label] = [(row["where"]["step"], row["values"][field]) for row in chosen]
        panels.append(panel)
    draw_panels(panels, path)


def _rows(samples: Sequence[Sample], table: str) -> list[Row]:
    by = ("vocab", "length", "reward", "arm", "alpha", "step")
    return summarise(samples, by, _DISTANCES, units=("world",), table=table)


def _cells(fast: bool) -> list[dict[str, Any]]:
    """Worlds: shape, kind of reward, seed, and steps of training."""
    shapes = [(4, 3), (4, 4)] if fast else [(4, 3), (4, 4), (4, 5), (8, 3)]
    number, steps = (6, 256) if fast else (20, 512)
    return [
        {"vocab": vocab, "length": length, "reward": reward, "world": world, "steps": steps}
        for vocab, length in shapes
        for reward in _REWARDS
        for world in range(number if (vocab, length) == _COMMON else number // 2)
    ]


def _measure(cell: Mapping[str, Any]) -> Iterator[Sample]:
    """All ARMs of a world, each measured at every alpha it is for."""
    base = worlds.random_tables(cell["vocab"], cell["length"], seed=cell["world"])
    rewards = rewards_of(cell["reward"], cell["vocab"], cell["length"], seed=cell["world"] + 1_000_000)
    pairs = worlds.preferences(worlds.text_logprobs(base), rewards)
    steps = cell["steps"]
    for alpha in ALPHAS:
        yield _sample("of the theorem", 0, alpha, base, worlds.exact_arm(base, rewards, alpha), rewards)
    for step, arm in trained(base, pairs, steps):
        yield from (_sample("trained" if step else "untrained", step, alpha, base, arm, rewards) for alpha in ALPHAS)
    for alpha in ALPHAS:
        for step, arm in trained(base, pairs, steps, through=alpha):
            if step:
                yield _sample("trained through the policy", step, alpha, base, arm, rewards)
    if (cell["vocab"], cell["length"]) != _COMMON:
        return
    for order in ORDERS:
        *_, (step, arm) = trained(base, pairs, steps, order=order)
        yield from (_sample(f"sees {order} tokens", step, alpha, base, arm, rewards) for alpha in ALPHAS)
    for number in PAIRS:
        found = trained(base, worlds.sampled(pairs, number, cell["world"]), steps)
        # stopped where held-out pairs, infinitely many of them, say so
        stopped, arm = min(found, key=lambda one: worlds.preference_loss(worlds.text_logprobs(one[1]), pairs))
        for alpha in ALPHAS:
            yield {**_sample(f"{number} pairs", steps, alpha, base, arm, rewards), "stopped at step": stopped}


def rewards_of(kind: str, vocab: int, length: int, seed: int) -> Tensor:
    """Rewards of all texts with variance 1: independent numbers, or sums of independent points of tokens.

    Args:
        kind: "independent", the worst case, in which nothing is known of a text before its end; or "additive", in which
            a token's points depend on its position alone.
        vocab: tokens.
        length: of texts.
        seed: of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "independent":
        return torch.randn(vocab**length, generator=generator, dtype=torch.float64)
    points = torch.randn(length, vocab, generator=generator, dtype=torch.float64) / length**0.5
    return worlds.text_logprobs([row.expand(vocab**t, vocab) for t, row in enumerate(points)])


def trained(
    base: Tables, pairs: Tensor, steps: int, through: float | None = None, order: int | None = None
) -> Iterator[tuple[int, Tables]]:
    """An ARM as its training goes on: by the exact gradient of the expected loss, from a copy of the base.

    Args:
        base: tables of the base.
        pairs: probability of each pair, `(texts, texts)`, as `worlds.preferences` gives it.
        steps: of Adam, with a rate that falls to 0.
        through: train the guided policy's reward at this alpha, instead of the ARM's log-probability.
        order: tokens that the ARM sees besides its position. None: all.

    Yields:
        Number of steps, a power of 2 or the last, and the ARM's tables.
    """
    logits = [_start(table, t, order) for t, table in enumerate(base)]
    # gradients vanish fast, and are small for rare prefixes: a long memory of their size, or the usual eps, stops both
    optimizer = torch.optim.Adam(logits, lr=_RATE, betas=(0.9, 0.9), eps=1e-15)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    log_base = worlds.text_logprobs(base)
    for step in range(steps + 1):
        arm = [_seen(table, base[t].shape[0]).log_softmax(-1) for t, table in enumerate(logits)]
        if step in (0, steps) or step & (step - 1) == 0:
            yield step, [table.detach() for table in arm]
        if step == steps:
            return
        rewards = worlds.text_logprobs(arm)
        if through is not None:
            rewards = (worlds.text_logprobs(worlds.guided(base, arm, through)) - log_base) / through
        optimizer.zero_grad()
        rewards.backward(worlds.preference_gradient(rewards.detach(), pairs))
        optimizer.step()
        schedule.step()


def _start(table: Tensor, position: int, order: int | None) -> Tensor:
    """The base's logits, averaged over what the ARM does not see."""
    vocab = table.shape[-1]
    seen = vocab ** (position if order is None else min(order, position))
    return table.view(-1, seen, vocab).mean(0).clone().requires_grad_()


def _seen(logits: Tensor, prefixes: int) -> Tensor:
    """A row for every prefix: its last tokens say which one (prefixes are in lexicographic order)."""
    return logits.repeat(prefixes // logits.shape[0], 1)


def _sample(name: str, step: int, alpha: float, base: Tables, arm: Tables, rewards: Tensor) -> Sample:
    log_base = worlds.text_logprobs(base)
    optimum = worlds.reweighted(log_base, rewards, alpha)
    guided = worlds.text_logprobs(worlds.guided(base, arm, alpha))
    reweighted = worlds.reweighted(log_base, worlds.text_logprobs(arm), alpha)
    most, left = worlds.kl(log_base, optimum), worlds.kl(guided, optimum)
    return {
        "arm": name,
        "step": step,
        "alpha": alpha,
        _GUIDED: left,
        _REWEIGHTED: worlds.kl(reweighted, optimum),
        "guided to reweighted": worlds.kl(guided, reweighted),
        "base to optimum": most,
        # the objective of a policy is a constant minus KL(policy || optimum) / alpha
        _SHARE: 1 - left / most,
    }
