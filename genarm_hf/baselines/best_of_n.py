"""Best-of-N: sample several responses, keep the one with the highest reward (arXiv 2009.01325, 2112.09332)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .continuation import Continuation, Prompt, check_count, check_reward, check_sampling, decoding, rewards_of


def best_of_n_generate(
    model: Any,
    reward: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    n: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode by best-of-N: of `n` samples of the base, the one whose full text has the highest reward.

    The prompt is read once. All `n * batch` responses are written side by side and scored in one forward.

    Args:
        model: the base causal LM.
        reward: a [`TrajectoryReward`], or a callable `(ids, mask) -> (rows,)`.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        n: samples a prompt.
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
    check_count("n", n)
    check_sampling(temperature, top_k)
    check_reward(model, reward)
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, reward):
        text = best_continuations(
            Continuation.begin(model, prompt), reward, n, max_new_tokens, temperature=temperature, top_k=top_k
        )
    return without_padding(text)


def best_continuations(
    text: Continuation, reward: Any, n: int, steps: int, *, temperature: float, top_k: int | None
) -> Continuation:
    """Each row's best of `n` samples of at most `steps` tokens more.

    Args:
        text: rows to go on from.
        reward: of full texts.
        n: samples a row.
        steps: most tokens of a sample.
        temperature: of sampling.
        top_k: tokens to sample among; None: all.
    """
    samples = text.fork(n)
    samples.sample(steps, temperature, top_k)
    best = rewards_of(reward, samples.ids, samples.mask).view(-1, n).argmax(1)
    samples.keep(torch.arange(len(best), device=best.device) * n + best)
    return samples


def without_padding(text: Continuation) -> Tensor:
    """Ids without the columns that are padding in all rows, as where a longer sample was not taken."""
    return text.ids[:, : text.ids.shape[1] - int(text.mask.flip(1).argmax(1).min())]
