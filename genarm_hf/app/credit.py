"""What each word earned: its reward under every reward model, beside what the base makes of it anyway."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..modeling_genarm import AutoregressiveRewardModel
from .ensemble import Asked, Ensemble


@dataclass(frozen=True)
class Credit:
    """What one reward model says of one token.

    Attributes:
        reward: `log pi_r(token)` in nats.
        habit: `log pi_base(token)` in nats.
    """

    reward: float
    habit: float

    @property
    def advantage(self) -> float:
        """How far the reward model would raise the token (or lower it, below 0), in nats: what guidance acts on."""
        return self.reward - self.habit


def credits(ensemble: Ensemble, asked: Asked, reply: Sequence[int]) -> list[list[Credit]]:
    """Credits `[objective][token]` of one reply.

    Args:
        ensemble: who judges.
        asked: what was answered.
        reply: ids of the reply's tokens.
    """
    if not reply:
        return [[] for _ in ensemble.arms]
    rewards, habits = token_rewards(ensemble, asked, [list(reply)])
    return [
        [Credit(reward, habit) for reward, habit in zip(row[0], habits[0].tolist(), strict=True)]
        for row in rewards.tolist()
    ]


@torch.no_grad()
def token_rewards(ensemble: Ensemble, asked: Asked, replies: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rewards of many replies to one request, all in one forward a model.

    Args:
        ensemble: who judges.
        asked: what was answered.
        replies: ids, none of them empty.

    Returns:
        `log pi_r` `(arms, replies, longest)` and `log pi_base` `(replies, longest)` in nats, on the CPU; 0 behind a
        reply's end.
    """
    readers: list[tuple[Any, Any]] = [
        (arm, asked.inputs if own is None else own) for arm, own in zip(ensemble.arms, asked.reward_inputs, strict=True)
    ]
    readers.append((AutoregressiveRewardModel.from_backbone(ensemble.base), asked.inputs))
    read = torch.stack([_read(model, inputs["input_ids"][0].tolist(), replies) for model, inputs in readers])
    return read[:-1], read[-1]


def _read(model: Any, prompt: list[int], replies: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, replies))
    padded = [[*prompt, *reply, *[0] * (longest - len(reply))] for reply in replies]
    mask = torch.tensor([[1] * (len(prompt) + len(reply)) + [0] * (longest - len(reply)) for reply in replies])
    rewards = model.token_rewards(torch.tensor(padded), mask)
    return rewards[:, len(prompt) :].float().cpu()
