"""Decoding guided by prefix values: FUDGE (arXiv 2104.05218) and controlled decoding, CD (arXiv 2310.17022).

A prefix value says of an unfinished text what reward to expect if the base goes on. CD-FUDGE learns it from the base's
own rollouts; `sample_value_rows` makes them, `train_prefix_value` learns. FUDGE's official code is
yangkevin2/naacl-2021-fudge-controlled-generation; CD has none.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .best_of_n import best_continuations, without_padding
from .candidates import search
from .continuation import (
    Continuation,
    Prompt,
    check_count,
    check_finite,
    check_reward,
    check_sampling,
    decoding,
    rewards_of,
)


def value_guided_generate(
    model: Any,
    value: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    weight: float = 1.0,
    k: int | None = 200,
    do_sample: bool = True,
    temperature: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode token by token from `p(z | x, y) exp(weight * V(x, y, z))`, normalised (CD, Theorem 2.1).

    With values that are log-probabilities of an attribute and weight 1 this is FUDGE.

    One forward of the base and one of the value model a token, the latter on `batch * k` rows.

    Args:
        model: the base causal LM, p.
        value: V: a [`TrajectoryReward`] of a token classifier, as `train_prefix_value` gives it, read with a cache; or
            a callable `(ids, mask) -> (rows,)`.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        weight: CD's lambda. 0: the base's `k` best tokens without values.
        k: the base's best tokens that values are asked for; FUDGE's 200. None: the whole vocabulary, as CD has it.
        do_sample: whether to sample, or to take the best.
        temperature: of sampling.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `(batch, length + new)`, as of `generate()`.

    Raises:
        TypeError: a model or the value is of the wrong kind.
        ValueError: an argument is out of range, or the vocabularies differ.
    """
    check_finite("weight", weight)
    if k is not None:
        check_count("k", k)
    check_sampling(temperature)
    check_reward(model, value, "value")
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, value):
        text = Continuation.begin(model, prompt)
        search(text, value, weight, k or text.next_logits().shape[-1], temperature, do_sample)
    return text.ids


def blockwise_generate(
    model: Any,
    value: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    k: int = 6,
    block_size: int = 32,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode by blockwise controlled decoding: of `k` samples of the next block, keep the one of the highest value.

    The blockwise sampling of CD. With `block_size=max_new_tokens` and a trajectory reward it is best-of-K.

    Args:
        model: the base causal LM.
        value: as in [`value_guided_generate`]; a trajectory reward will do too, and judges unfinished texts then.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        k: blocks to choose from.
        block_size: the paper's M, tokens of a block.
        temperature: of the base's samples.
        top_k: sample among the base's best only. None: among all.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `(batch, length + new)`, as of `generate()`.

    Raises:
        TypeError: a model or the value is of the wrong kind.
        ValueError: an argument is out of range, or the vocabularies differ.
    """
    check_count("k", k)
    check_count("block_size", block_size)
    check_sampling(temperature, top_k)
    check_reward(model, value, "value")
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, value):
        text = Continuation.begin(model, prompt)
        while text.new_tokens < max_new_tokens and not text.finished:
            steps = min(block_size, max_new_tokens - text.new_tokens)
            text = best_continuations(text, value, k, steps, temperature=temperature, top_k=top_k)
    return without_padding(text)


def sample_value_rows(
    model: Any,
    reward: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    num_rollouts: int = 1,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> list[dict[str, Any]]:
    """Let the base answer prompts, and note the rewards: what CD-FUDGE learns values from.

    Args:
        model: the base causal LM, sampled at temperature 1.
        reward: a [`TrajectoryReward`], or a callable `(ids, mask) -> (rows,)` of full texts, such as an oracle.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        num_rollouts: responses to a prompt.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `batch * num_rollouts` rows with `prompt_ids`, `response_ids` (its end of text included) and `reward`.

    Raises:
        TypeError: a model or the reward is of the wrong kind.
        ValueError: an argument is out of range, or the vocabularies differ.
    """
    check_count("num_rollouts", num_rollouts)
    check_reward(model, reward)
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, reward):
        text = Continuation.begin(model, prompt).fork(num_rollouts)
        text.sample(max_new_tokens)
        rewards = rewards_of(reward, text.ids, text.mask).tolist()
    width = prompt.ids.shape[1]
    return [
        {
            "prompt_ids": ids[:width][mask[:width] == 1].tolist(),
            "response_ids": ids[width:][mask[width:] == 1].tolist(),
            "reward": one,
        }
        for ids, mask, one in zip(text.ids, text.mask, rewards, strict=True)
    ]
