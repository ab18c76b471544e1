"""Transfer Q*: values of next tokens by letting a policy write to the end (arXiv 2405.20495).

Official code: umd-huang-lab/Transfer-Q, `direct.py`. Implemented is the direct form, in which the target reward is the
one the rollout policy is aligned with.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .continuation import (
    Continuation,
    Prompt,
    check_count,
    check_positive,
    check_reward,
    check_same_vocabulary,
    check_sampling,
    decoding,
    draw,
    rewards_of,
)


def transfer_q_generate(
    model: Any,
    reward: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    policy: Any = None,
    k: int = 10,
    alpha: float = 1.0,
    num_rollouts: int = 1,
    rollout_tokens: int | None = None,
    rollout_do_sample: bool = True,
    do_sample: bool = True,
    temperature: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Decode by direct Transfer Q*: the next token z comes from `pi(z | s) exp(Q(s, z) / alpha)`, normalised.

    `Q(s, z)` is the reward expected of the text if `policy`, a model that is aligned with the reward, goes on writing
    behind z; it is estimated by rollouts (Algorithm 1). Without such a policy the base itself goes on,
    which is the value that controlled decoding estimates (`Q^{pi_sft}` in the paper).

    Candidates are the base's `k` best tokens. Their rollouts go on from the cache of what is written, all side by side:
    a token costs one forward of the base, up to `rollout_tokens + 1` of the policy on `batch * k * num_rollouts` rows,
    and one of the reward model.

    The official code lets the rollout policy propose the candidates too, writes rollouts greedily and cuts them after
    20 tokens, and takes the best token instead of sampling: `model=policy, rollout_tokens=20, rollout_do_sample=False,
    do_sample=False` here.

    Args:
        model: the base causal LM, pi.
        reward: a [`TrajectoryReward`], or a callable `(ids, mask) -> (rows,)` of full texts.
        input_ids: `(batch, length)`, padded on the left.
        attention_mask: `(batch, length)`, 1 = token; None: all are.
        max_new_tokens: most tokens of a response.
        policy: causal LM that writes rollouts, with the base's vocabulary. None: the base.
        k: candidates a step.
        alpha: weight of the divergence from the base.
        num_rollouts: rollouts a candidate; Q is their mean reward.
        rollout_tokens: most tokens of a rollout behind its candidate. None: to the end of the response.
        rollout_do_sample: whether rollouts are sampled, or greedy.
        do_sample: whether to sample the token, or to take the best.
        temperature: of that choice; rollouts are samples of the policy as it is.
        eos_token_id: what ends a text. None: the model's own; []: nothing.
        pad_token_id: what follows the end. None: the model's own, else the first that ends a text.

    Returns:
        `(batch, length + new)`, as of `generate()`.

    Raises:
        TypeError: a model or the reward is of the wrong kind.
        ValueError: an argument is out of range, or vocabularies differ.
    """
    check_count("k", k)
    check_positive("alpha", alpha)
    check_count("num_rollouts", num_rollouts)
    if rollout_tokens is not None:
        check_count("rollout_tokens", rollout_tokens)
    check_sampling(temperature)
    check_reward(model, reward)
    check_same_vocabulary(model, policy, "`policy`")
    prompt = Prompt.check(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    with decoding(model, policy, reward):
        text = Continuation.begin(model, prompt)
        writers = [text] if policy is None else [text, Continuation.begin(policy, prompt)]
        while not text.finished and text.new_tokens < max_new_tokens:
            logits, tokens = text.next_logits().topk(min(k, text.next_logits().shape[-1]))
            rollouts = writers[-1].fork(tokens.shape[1] * num_rollouts)
            rollouts.append(tokens.flatten().repeat_interleave(num_rollouts))
            left = max_new_tokens - rollouts.new_tokens
            rollouts.sample(left if rollout_tokens is None else min(left, rollout_tokens), do_sample=rollout_do_sample)
            values = rewards_of(reward, rollouts.ids, rollouts.mask).view(*tokens.shape, num_rollouts).mean(-1)
            choice = draw(logits + values / alpha, temperature, do_sample=do_sample)
            for one in writers:
                one.append(tokens.gather(1, choice[:, None])[:, 0])
    return text.ids
