"""Rewards of every row's next tokens, and the search that they steer: the common part of ARGS and of prefix values."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..adapters import unwrap
from ..decoding.reward_reader import RewardReader
from ..vocabulary import vocab_size
from .continuation import Continuation, draw, rewards_of
from .trajectory_rewards import TrajectoryReward, at_last_token


class Candidates(Protocol):
    """Scores one-token continuations of rows, and follows the one that is taken."""

    def score(self, tokens: Tensor) -> Tensor:
        """Rewards `(rows, k)` of each row's text with one of its tokens `(rows, k)` behind it."""

    def take(self, choice: Tensor) -> None:
        """Go on with candidate `choice[i]` in row i, of those that were scored last."""


class CachedCandidates:
    """By a classifier that reads each token once: all candidates of all rows in one forward of one token each.

    Each row is there `k` times in the classifier's cache, as in the official code of ARGS, and every copy reads another
    candidate; the copy whose candidate is taken then becomes all `k`.
    """

    def __init__(self, reward: TrajectoryReward, text: Continuation, k: int) -> None:
        model = unwrap(reward.model)
        self._k, self._pad, self._device = k, reward.pad_token_id, text.ids.device
        self._reader = RewardReader.open(model, use_cache=True, base_vocab=vocab_size(text.reader.model))
        mask = text.mask
        self._reader.extend(text.ids.masked_fill(mask == 0, self._pad), None if bool(mask.all()) else mask)
        self._rewards = self._read((len(mask), 1))
        self._reader.repeat(k)

    def score(self, tokens: Tensor) -> Tensor:
        """As in [`Candidates`]."""
        # to a sequence classifier its own padding is no token: the reward stays that of the text before
        before, silent = self._rewards[:, :1], tokens == self._pad
        self._reader.extend(tokens.reshape(-1, 1), None)
        rewards = self._read(tokens.shape)
        self._rewards = torch.where(silent, before, rewards) if self._pools else rewards
        return self._rewards

    def take(self, choice: Tensor) -> None:
        """As in [`Candidates`]."""
        first = torch.arange(len(choice), device=choice.device) * self._k
        self._reader.reorder((first + choice).repeat_interleave(self._k))
        self._rewards = self._rewards.gather(1, choice[:, None])

    def _read(self, shape: tuple[int, ...]) -> Tensor:
        logits = self._reader.logits(1)
        self._pools = logits.ndim == 2  # one logit a text, as of sequence classifiers
        return at_last_token(logits).to(self._device).reshape(shape)


class FullTextCandidates:
    """By anything that gives rewards of full texts: every candidate's text is read anew."""

    def __init__(self, reward: Callable[[Tensor, Tensor], Tensor], text: Continuation) -> None:
        self._reward, self._text = reward, text

    def score(self, tokens: Tensor) -> Tensor:
        """As in [`Candidates`]."""
        k = tokens.shape[1]
        ids, mask = (rows.repeat_interleave(k, 0) for rows in (self._text.ids, self._text.mask))
        real = (~self._text.done).long().repeat_interleave(k)[:, None]
        rewards = rewards_of(self._reward, torch.cat([ids, tokens.reshape(-1, 1)], 1), torch.cat([mask, real], 1))
        return rewards.reshape(tokens.shape)

    def take(self, choice: Tensor) -> None:
        """As in [`Candidates`]: the text itself is followed."""


def open_candidates(reward: Any, text: Continuation, k: int) -> Candidates:
    """What scores `k` candidates of each row: with a cache where the reward model allows it."""
    if isinstance(reward, TrajectoryReward):
        return CachedCandidates(reward, text, k)
    return FullTextCandidates(reward, text)


def search(text: Continuation, reward: Any, weight: float, k: int, temperature: float, do_sample: bool) -> None:
    """Write token by token, each from `softmax((log p + weight * reward) / temperature)` over the base's `k` best.

    Args:
        text: prompts; it is written on.
        reward: of a text with one more token.
        weight: of the reward; 0: it is not asked for.
        k: candidates; at most the vocabulary.
        temperature: of sampling.
        do_sample: whether to sample, or to take the best.
    """
    k = min(k, text.next_logits().shape[-1])
    candidates = open_candidates(reward, text, k) if weight else None
    while not text.finished and text.new_tokens < text.prompt.max_new_tokens:
        scores, tokens = text.next_logits().topk(k)
        if candidates is not None:
            scores = scores + weight * candidates.score(tokens)
        choice = draw(scores, temperature, do_sample=do_sample)
        if candidates is not None:
            candidates.take(choice)
        text.append(tokens.gather(1, choice[:, None])[:, 0])
