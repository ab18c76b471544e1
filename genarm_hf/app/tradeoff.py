"""Where the sliders stand: what replies are worth on average, at many settings at once.

A single reply says little, so each setting is measured on several replies to the request, all of them rows of one batch
with an alpha each. Worth is what an exact judge says, where there is one, else what the reward models say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..evaluation import Interval, mean_interval
from .credit import token_rewards
from .ensemble import Asked, Ensemble
from .writing import Manner, ends_of, generate, seeded

REPLIES = 16  # to each setting
STEPS = 5  # settings from one objective alone to the other alone


@dataclass(frozen=True)
class Point:
    """What replies at one setting are worth.

    Attributes:
        alpha: guidance strengths `(arms,)`.
        worth: mean and 95 % interval by objective.
    """

    alpha: tuple[float, ...]
    worth: tuple[Interval, ...]


def settings(arms: int, largest: float) -> list[tuple[float, ...]]:
    """The settings that make the picture: the base alone, then a path from one objective to the other.

    With a single reward model the path leads from 0 to `largest`; with more than two the others stay at 0.

    Example:
        >>> settings(1, 2.0)
        [(0.0,), (0.5,), (1.0,), (1.5,), (2.0,)]
        >>> settings(2, 2.0)
        [(0.0, 0.0), (2.0, 0.0), (1.5, 0.5), (1.0, 1.0), (0.5, 1.5), (0.0, 2.0)]
    """
    shares = [step / (STEPS - 1) for step in range(STEPS)]
    if arms == 1:
        return [(largest * share,) for share in shares]
    rest = (0.0,) * (arms - 2)
    return [(0.0, 0.0, *rest), *((largest * (1 - share), largest * share, *rest) for share in shares)]


def measure(
    ensemble: Ensemble, asked: Asked, alphas: Sequence[tuple[float, ...]], manner: Manner, replies: int = REPLIES
) -> list[Point]:
    """What `replies` replies at each setting are worth.

    Args:
        ensemble: who writes and judges.
        asked: what is answered.
        alphas: the settings.
        manner: how to write; its pace is of no account here.
        replies: how many at each setting, two or more.
    """
    rows = torch.tensor(alphas).repeat_interleave(replies, 0)
    with seeded(ensemble, manner.seed), torch.no_grad():
        output = generate(ensemble, asked, manner, rows, len(rows))
    start = asked.inputs["input_ids"].shape[1]
    worth = judged(ensemble, asked, [_until_end(row, ends_of(ensemble)) for row in output[:, start:].tolist()])
    return [_point(alpha, worth[place * replies : (place + 1) * replies]) for place, alpha in enumerate(alphas)]


def judged(ensemble: Ensemble, asked: Asked, replies: Sequence[Sequence[int]]) -> list[list[float]]:
    """Worth `[reply][objective]`: the judge's points, else nats by which reward models raise a reply over the base.

    Args:
        ensemble: who judges.
        asked: what was answered.
        replies: ids.
    """
    if ensemble.judge is not None:
        texts = ensemble.tokenizer.batch_decode(replies, skip_special_tokens=True)
        points = [ensemble.judge(asked.text, text) for text in texts]
        known = [point for point in points if point is not None]
        if len(known) == len(points):
            return known
    rewards, habits = token_rewards(ensemble, asked, replies)
    return (rewards - habits).sum(-1).T.tolist()


def unit(ensemble: Ensemble, asked: Asked) -> str:
    """What [`judged`] counts in."""
    known = ensemble.judge is not None and ensemble.judge(asked.text, "") is not None
    return "points" if known else "nats over the base"


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids)) + 1]


def _point(alpha: tuple[float, ...], worth: Sequence[Sequence[float]]) -> Point:
    return Point(tuple(alpha), tuple(mean_interval(column) for column in zip(*worth, strict=True)))
