"""CARDS: cascade reward sampling, segments of text that are proposed and rejected (arXiv 2406.16306).

Official code: lblaoke/CARDS, `reward_sampling.py` (`seg_rs_generate`) and `tools/uncertainty.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .continuation import (
    Continuation,
    Prompt,
    check_count,
    check_finite,
    check_positive,
    check_reward,
    check_sampling,
    decoding,
    draw,
    rewards_of,
)


def cards_generate(
    model: Any,
    reward: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    target_reward: float,
    entropy_threshold: float = 3.0,
    alpha: float = 0.5,
    beta: float = 0.7,
    min_segment: int = 1,
    max_segment: int = 64,
    max_rejections: int = 20,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode by CARDS: propose a segment, accept it with a probability that its reward decides, else propose anew.

    A segment ends before a token that the base is uncertain of: where the entropy of its next-token distribution is at
    least `entropy_threshold`. The text `y` of t tokens with the segment behind it is accepted with probability
    `min(1, exp((r(x, y) - tau(t)) / beta))`. The threshold rises with the length,
    `tau(t) = r_0 + t (target_reward - r_0) / max_new_tokens`, from `r_0 = (1 - alpha) r(x) + alpha target_reward`.
    After `max_rejections` rejections in a row the best segment proposed is taken.

    Rows go on side by side, each with segments of its own length. Accepted texts are read anew when a segment was
    accepted; rejected ones are forgotten at no cost. The official code reads everything anew for each token, samples
    with temperature `beta` among the 40 best tokens, and lets no segment be shorter than 4 tokens or end with the text:
    `temperature=0.7, top_k=40, min_segment=4, eos_token_id=[]` here.

    Args:
        model: the base causal LM.
        reward: a [`TrajectoryReward`], or a callable `(ids, mask) -> (rows,)`, asked for texts that have not ended too.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        target_reward: `r*`, what the reward is to reach; 8.5 in the official code, for the LLaMA-7B reward model of
            ARGS. A little above the mean reward of what another method writes is a good start.
        entropy_threshold: `tau_u`, in nats; infinity: segments end only with the text or their length.
        alpha: how near to the target the threshold starts, 0 to 1.
        beta: temperature of acceptance, in the unit of the reward.
        min_segment: fewest tokens of a segment, but for the last.
        max_segment: most tokens of a segment.
        max_rejections: rejections in a row before the best proposal is taken.
        temperature: of the base's samples.
        top_k: sample among the base's best only. None: among all.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `(batch, length + new)`, as of `generate()`.

    Raises:
        TypeError: a model or the reward is of the wrong kind.
        ValueError: an argument is out of range, or the vocabularies differ.
    """
    limits = Segments(entropy_threshold, min_segment, max_segment, temperature, top_k)
    acceptance = Acceptance(target_reward, alpha, beta, max_rejections)
    check_reward(model, reward)
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, reward):
        first = rewards_of(reward, prompt.ids, prompt.mask)
        rows = [_Row(prompt.ids[i][prompt.mask[i] == 1], float(first[i])) for i in range(len(first))]
        prefix = None
        while active := [row for row in rows if not row.ended]:
            if prefix is None:
                prefix = _read([row.text for row in active], model, prompt)
            if not acceptance.judge(active, _propose(prefix.fork(1), limits, active), reward):
                continue
            prefix = None
    return _right_padded(prompt, rows)


@dataclass(frozen=True)
class Segments:
    """How segments are proposed; arguments of [`cards_generate`]."""

    entropy_threshold: float
    min_segment: int
    max_segment: int
    temperature: float
    top_k: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.entropy_threshold, (int, float)) or not self.entropy_threshold > 0:
            raise ValueError(f"`entropy_threshold` must be above 0 nats, got {self.entropy_threshold!r}.")
        check_count("min_segment", self.min_segment)
        check_count("max_segment", self.max_segment)
        if self.min_segment > self.max_segment:
            raise ValueError(
                f"`min_segment` must be at most `max_segment`, got {self.min_segment} and {self.max_segment}."
            )
        check_sampling(self.temperature, self.top_k)


@dataclass(frozen=True)
class Acceptance:
    """How segments are judged; arguments of [`cards_generate`]."""

    target_reward: float
    alpha: float
    beta: float
    max_rejections: int

    def __post_init__(self) -> None:
        check_finite("target_reward", self.target_reward)
        check_finite("alpha", self.alpha)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"`alpha` must lie between 0 and 1, got {self.alpha!r}.")
        check_positive("beta", self.beta)
        if isinstance(self.max_rejections, bool) or not isinstance(self.max_rejections, int) or self.max_rejections < 0:
            raise ValueError(f"`max_rejections` must be an integer of at least 0, got {self.max_rejections!r}.")

    def threshold(self, first: float, share: float) -> float:
        """`tau(t)`: from `r_0` at share 0 of the response's length to the target at share 1.

        Example:
            >>> Acceptance(target_reward=8.0, alpha=0.5, beta=0.7, max_rejections=20).threshold(first=0.0, share=0.5)
            6.0
        """
        start = (1 - self.alpha) * first + self.alpha * self.target_reward
        return start + share * (self.target_reward - start)

    def judge(self, rows: list["_Row"], text: Continuation, reward: Any) -> bool:
        """Accept or reject what was proposed for each row; whether any row went on."""
        rewards = rewards_of(reward, text.ids, text.mask).tolist()
        luck = torch.rand(len(rows)).log().tolist()
        for i, row in enumerate(rows):
            proposal = text.ids[i][text.mask[i] == 1]
            share = (len(proposal) - row.prompt_length) / text.prompt.max_new_tokens
            if row.best is None or rewards[i] > row.best_reward:
                row.best, row.best_reward = proposal, rewards[i]
            margin = (rewards[i] - self.threshold(row.prompt_reward, share)) / self.beta
            if luck[i] < margin:
                row.take(proposal, text.prompt)
            elif row.rejections == self.max_rejections:
                row.take(row.best, text.prompt)
            else:
                row.rejections += 1
        return any(row.best is None for row in rows)


class _Row:
    """One response: what of it is accepted, and the best of what was rejected behind that."""

    def __init__(self, prompt: Tensor, prompt_reward: float) -> None:
        self.text, self.prompt_length, self.prompt_reward = prompt, len(prompt), prompt_reward
        self.best: Tensor | None = None
        self.best_reward, self.rejections, self.ended = 0.0, 0, False

    @property
    def response(self) -> Tensor:
        return self.text[self.prompt_length :]

    def take(self, text: Tensor, prompt: Prompt) -> None:
        self.text, self.best, self.rejections = text, None, 0
        self.ended = len(self.response) >= prompt.max_new_tokens or bool(torch.isin(text[-1], prompt.eos))


def entropy(logits: Tensor) -> Tensor:
    """Entropy `(rows,)` in nats of next-token distributions `(rows, vocab)`.

    Example:
        >>> entropy(torch.zeros(1, 4))
        tensor([1.3863])
    """
    return torch.distributions.Categorical(logits=logits).entropy()


def _read(texts: list[Tensor], model: Any, prompt: Prompt) -> Continuation:
    """The model behind texts of several lengths."""
    width = max(len(text) for text in texts)
    ids = torch.stack([torch.nn.functional.pad(text, (width - len(text), 0), value=prompt.pad) for text in texts])
    lengths = torch.tensor([[len(text)] for text in texts], device=ids.device)
    mask = (torch.arange(width, device=ids.device) >= width - lengths).long()
    return Continuation.begin(model, Prompt(ids, mask, prompt.eos, prompt.pad, prompt.max_new_tokens))


def _propose(text: Continuation, limits: Segments, rows: list[_Row]) -> Continuation:
    """Write one segment behind each row; `done` then says that its segment has ended."""
    room = [text.prompt.max_new_tokens - len(row.response) for row in rows]
    most = torch.tensor(room, device=text.ids.device).clamp(max=limits.max_segment)
    for written in range(1, int(most.max()) + 1):
        text.append(draw(text.next_logits(), limits.temperature, limits.top_k))
        text.done = text.done | (most <= written)
        if not text.finished and written >= limits.min_segment:
            text.done = text.done | (entropy(text.next_logits()) >= limits.entropy_threshold)
        if text.finished:
            break
    return text


def _right_padded(prompt: Prompt, rows: list[_Row]) -> Tensor:
    responses = torch.nn.utils.rnn.pad_sequence(
        [row.response for row in rows], batch_first=True, padding_value=prompt.pad
    )
    return torch.cat([prompt.ids, responses], 1)
