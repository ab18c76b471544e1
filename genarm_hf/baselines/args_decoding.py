"""ARGS: alignment as reward-guided search, over the base's best next tokens (arXiv 2402.01694).

Official code: deeplearning-wisc/args, `argsearch.py`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .candidates import search
from .continuation import (
    Continuation,
    Prompt,
    check_count,
    check_finite,
    check_reward,
    check_sampling,
    decoding,
)


def args_generate(
    model: Any,
    reward: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    w: float = 1.5,
    k: int = 10,
    do_sample: bool = False,
    temperature: float = 0.7,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode by ARGS: of the base's `k` best tokens, each scores `LM(v | x) + w * r([x, v])` (equation 2).

    ARGS-greedy takes the best candidate, ARGS-stochastic (`do_sample=True`) samples from the softmax of
    `score / temperature` over the `k`. LM(v | x) is the base's logit. Taking log-probabilities instead changes all
    scores of a step by one number, and so nothing. The reward model is a trajectory reward, and is asked for rewards of
    texts that have not ended.

    One forward of the base and one of the reward model a token. The official code takes one prompt at a time and writes
    `max_new_tokens` whether or not the text has ended; here rows end at `eos_token_id`.

    Args:
        model: the base causal LM.
        reward: a [`TrajectoryReward`], read with a cache; or a callable `(ids, mask) -> (rows,)`, which reads each
            candidate's whole text.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        w: weight of the reward; the paper's 1.5 is for its LLaMA-7B on HH-RLHF. 0: the base itself.
        k: candidates a step, the paper's 10.
        do_sample: ARGS-stochastic, else ARGS-greedy.
        temperature: of ARGS-stochastic; 0.7 in the official code.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `(batch, length + new)`, as of `generate()`.

    Raises:
        TypeError: a model or the reward is of the wrong kind.
        ValueError: an argument is out of range, or the vocabularies differ.
    """
    check_finite("w", w)
    check_count("k", k)
    check_sampling(temperature)
    check_reward(model, reward)
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, reward):
        text = Continuation.begin(model, prompt)
        search(text, reward, w, k, temperature, do_sample)
    return text.ids
