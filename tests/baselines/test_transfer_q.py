"""Transfer Q* against its equations: values of next tokens by rollouts."""

import itertools
from functools import partial

import pytest
import torch

from genarm_hf.baselines import transfer_q_generate

from ..conftest import EOS, prompts, tiny
from .reference import (
    SMALL,
    assert_distributed,
    classifier,
    greedy,
    many,
    next_logits,
    responses,
    reward_of,
    rows,
    tokenwise,
)


def most_likely(model):  # type: ignore[no-untyped-def]
    return lambda ids: int(next_logits(model, ids).argmax())


@pytest.mark.parametrize("rollout_tokens", [2, None])
@pytest.mark.parametrize("own_policy", [False, True])
def test_greedy_rollouts_equal_the_formula(own_policy: bool, rollout_tokens: int | None) -> None:
    base, reward, prompt = tiny(), classifier("gpt2"), prompts(2, 5, padded=True)
    policy = tiny("gpt2", seed=2) if own_policy else None
    new, k, alpha = 6, 3, 0.5

    def choose(ids: torch.Tensor, start: int) -> int:
        logits, scores = next_logits(base, ids), {}
        for v in logits.topk(k).indices:
            text = torch.cat([ids, v[None]])
            left = new - (len(text) - start) if rollout_tokens is None else min(2, new - (len(text) - start))
            rollout = [] if int(v) == EOS else greedy(text, most_likely(policy or base), left, EOS)
            scores[int(v)] = (
                float(logits[v]) + reward_of(reward, torch.cat([text, torch.tensor(rollout).long()])) / alpha
            )
        return max(scores, key=scores.__getitem__)

    expected = [greedy(ids, partial(choose, start=len(ids)), new, EOS) for ids in rows(prompt)]
    output = transfer_q_generate(
        base, reward, **prompt, max_new_tokens=new, policy=policy, k=k, alpha=alpha,
        rollout_tokens=rollout_tokens, rollout_do_sample=False, do_sample=False,
    )  # fmt: skip
    assert responses(output, 5, EOS) == expected


def test_sampled_rollouts_and_choices() -> None:
    """The first token of two: its candidates' rollouts are one token long, and all their pairs can be enumerated."""
    base, reward, prompt = tiny(**SMALL), classifier(**SMALL), torch.tensor([3, 4])
    logits = next_logits(base, prompt)
    candidates = logits.topk(2).indices
    behind = [torch.cat([prompt, v[None]]) for v in candidates]
    chances = [next_logits(base, text).softmax(-1) for text in behind]
    values = [[reward_of(reward, torch.cat([text, torch.tensor([z])])) for z in range(6)] for text in behind]
    first = torch.zeros(6)
    for a, b in itertools.product(range(6), repeat=2):
        scores = logits[candidates] + torch.tensor([values[0][a], values[1][b]]) / 0.8
        first[candidates] += chances[0][a] * chances[1][b] * scores.softmax(-1)

    def last(ids: torch.Tensor) -> torch.Tensor:
        following, result = next_logits(base, ids), torch.zeros(6)
        kept = following.topk(2).indices
        rewards = torch.tensor([reward_of(reward, torch.cat([ids, v[None]])) for v in kept])
        result[kept] = (following[kept] + rewards / 0.8).softmax(-1)
        return result

    expected = tokenwise(lambda ids: first if len(ids) == 2 else last(ids), prompt)
    torch.manual_seed(0)
    output = transfer_q_generate(base, reward, many(prompt[None]), max_new_tokens=2, k=2, alpha=0.8, eos_token_id=[])
    assert_distributed(output, expected, unlike=tokenwise(lambda ids: next_logits(base, ids).softmax(-1), prompt))


def test_many_rollouts_approach_the_value() -> None:
    """The mean of many rollouts picks the token whose expected reward is best, not the luckiest."""
    base, reward, prompt = tiny(**SMALL), classifier(**SMALL), torch.tensor([3, 4])
    expected = []
    for v in range(6):
        text = torch.cat([prompt, torch.tensor([v])])
        chances = next_logits(base, text).softmax(-1)
        expected.append(
            sum(float(p) * reward_of(reward, torch.cat([text, torch.tensor([z])])) for z, p in enumerate(chances))
        )
    torch.manual_seed(0)
    output = transfer_q_generate(
        base,
        reward,
        prompt[None],
        max_new_tokens=2,
        k=6,
        alpha=1e-3,
        num_rollouts=2000,
        do_sample=False,
        eos_token_id=[],
    )
    assert int(output[0, 2]) == max(range(6), key=expected.__getitem__)


def test_a_token_costs_its_rollouts() -> None:
    base, reward, seen = tiny(), classifier(), []
    base.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    transfer_q_generate(
        base, reward, **prompts(2, 6), max_new_tokens=3, k=4, num_rollouts=2, rollout_tokens=1, eos_token_id=[]
    )
    # the candidate is read together with what the rollout needs: one forward a rollout token
    assert seen == [(2, 6), (16, 1), (2, 1), (16, 1), (2, 1)]
