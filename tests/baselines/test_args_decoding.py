"""ARGS against its equations, token by token without caches."""

import pytest
import torch

from genarm_hf.baselines import TrajectoryReward, args_generate, from_causal_lm

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


def best_candidate(base, reward, w, k):  # type: ignore[no-untyped-def]
    def choose(ids: torch.Tensor) -> int:
        logits = next_logits(base, ids)
        candidates = logits.topk(k).indices
        scores = [float(logits[v]) + w * reward_of(reward, torch.cat([ids, v[None]])) for v in candidates]
        return int(candidates[max(range(k), key=scores.__getitem__)])

    return choose


@pytest.mark.parametrize("base_kind", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_greedy_equals_the_formula(base_kind: str, kind: str) -> None:
    """Batched and padded, and with padding as a candidate, which a classifier does not see."""
    base, reward, prompt = tiny(base_kind), classifier(kind), prompts(3, 6, padded=True)
    output = args_generate(base, reward, **prompt, max_new_tokens=10, w=1.5, k=5)
    expected = [greedy(ids, best_candidate(base, reward, 1.5, 5), 10, EOS) for ids in rows(prompt)]
    assert responses(output, 6, EOS) == expected
    assert torch.equal(output[:, :6], prompt["input_ids"])


def test_a_callable_is_asked_for_the_same_rewards() -> None:
    base, reward, prompt = tiny(), classifier("gpt2"), prompts(3, 6, padded=True)
    cached = args_generate(base, reward, **prompt, max_new_tokens=8)
    assert torch.equal(args_generate(base, lambda ids, mask: reward(ids, mask), **prompt, max_new_tokens=8), cached)


def test_end_of_text_that_is_padding_too() -> None:
    """The reward of a text that ends is then that of the text before, read whole or token by token."""
    base = tiny(seed=3)
    reward = classifier(seed=6, pad_token_id=EOS)
    prompt = prompts(4, 5, padded=True)
    cached = args_generate(base, reward, **prompt, max_new_tokens=8, w=3.0, k=48)
    whole = args_generate(base, lambda ids, mask: reward(ids, mask), **prompt, max_new_tokens=8, w=3.0, k=48)
    assert torch.equal(cached, whole)
    one = torch.tensor([[5, 6, EOS]])
    assert float(reward(one)) == pytest.approx(float(reward(one[:, :2])), abs=1e-5)


def test_weight_zero_is_greedy_decoding_of_the_base() -> None:
    base, reward, prompt = tiny("qwen2"), classifier(), prompts(3, 6, padded=True)
    expected = base.generate(**prompt, max_new_tokens=10, do_sample=False)
    assert torch.equal(args_generate(base, reward, **prompt, max_new_tokens=10, w=0.0), expected)


def test_stochastic_samples_from_the_softmax_over_candidates() -> None:
    base, reward, prompt = tiny(**SMALL), classifier(**SMALL), torch.tensor([[3, 4]])

    def policy(ids: torch.Tensor, w: float = 1.5) -> torch.Tensor:
        logits = next_logits(base, ids)
        scores = torch.full_like(logits, -torch.inf)
        for v in logits.topk(4).indices:
            scores[v] = logits[v] + w * reward_of(reward, torch.cat([ids, v[None]]))
        return (scores / 0.7).softmax(-1)

    torch.manual_seed(0)
    output = args_generate(base, reward, many(prompt), max_new_tokens=2, k=4, do_sample=True, eos_token_id=[])
    unguided = tokenwise(lambda ids: policy(ids, 0.0), prompt[0])
    assert_distributed(output, tokenwise(policy, prompt[0]), unlike=unguided)


def test_a_token_costs_one_forward_of_each_model() -> None:
    base, reward = tiny(eos_token_id=None), classifier()
    calls: list[tuple[str, int]] = []
    for name, model in (("base", base), ("reward", reward.model)):
        model.register_forward_hook(
            lambda module, args, kwargs, output, name=name: calls.append((name, kwargs["input_ids"].numel())),
            with_kwargs=True,
        )
    args_generate(base, reward, **prompts(2, 6), max_new_tokens=4, k=3, eos_token_id=[])
    assert [size for name, size in calls if name == "base"] == [12, 2, 2, 2]
    assert [size for name, size in calls if name == "reward"] == [12, 6, 6, 6, 6]


def test_models_are_left_as_they_were() -> None:
    base, reward = tiny().train(), TrajectoryReward(from_causal_lm(tiny()).train())
    args_generate(base, reward, **prompts(), max_new_tokens=2)
    assert base.training and reward.model.training
