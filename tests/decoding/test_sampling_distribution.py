"""Samples come from the guided policy: total variation against full enumeration."""

import itertools
import math
from typing import Any

import pytest
import torch
from transformers import set_seed

import genarm_hf

from ..conftest import tiny

SMALL: dict[str, Any] = {"vocab_size": 8, "initializer_range": 0.25}
LENGTH = 3
SAMPLES = 6000


def policy(
    base: Any, arms: list[Any], alpha: list[float], prompt: torch.Tensor, temperature: float = 1.0, top_k: int = 8
) -> torch.Tensor:
    """Probability of each of the 8 ** 3 continuations, by the formula."""
    sequences = torch.tensor(list(itertools.product(range(8), repeat=LENGTH)))
    ids = torch.cat([prompt.expand(len(sequences), -1), sequences], 1)
    with torch.no_grad():
        logits = base(ids).logits.float()
        for arm, a in zip(arms, alpha, strict=True):
            logits = logits + a * arm(ids).logits.float().log_softmax(-1)
    logits = logits[:, prompt.shape[1] - 1 : -1] / temperature
    kept = logits.topk(top_k).values[..., -1:]
    logprobs = logits.masked_fill(logits < kept, -math.inf).log_softmax(-1)
    return logprobs.gather(-1, sequences[..., None])[..., 0].sum(-1).exp()


def total_variation(output: torch.Tensor, expected: torch.Tensor) -> float:
    codes = (output[:, -LENGTH:] * torch.tensor([64, 8, 1])).sum(-1)
    return float((torch.bincount(codes, minlength=512) / len(codes) - expected).abs().sum() / 2)


def noise(expected: torch.Tensor, samples: int) -> float:
    """Mean total variation of that many true samples, and three standard deviations more."""
    draws = torch.stack(
        [torch.bincount(expected.multinomial(samples, True), minlength=512) / samples for _ in range(40)]
    )
    distances = (draws - expected).abs().sum(-1) / 2
    return float(distances.mean() + 4 * distances.std())


@pytest.mark.parametrize(
    ("alpha", "settings"),
    [
        ([1.0, -0.5], {}),
        ([0.4, 1.3], {"temperature": 0.6}),
        ([2.0, 0.7], {"temperature": 1.7, "top_k": 5}),
    ],
)
def test_samples_follow_the_guided_policy(alpha: list[float], settings: dict[str, Any]) -> None:
    base, arms = tiny("llama", **SMALL), [tiny("llama", seed=1, **SMALL), tiny("gpt2", seed=2, **SMALL)]
    prompt = torch.tensor([[3, 4, 5]])
    expected = policy(base, arms, alpha, prompt, **settings)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-4)
    set_seed(0)
    output = base.generate(
        prompt, reward_models=arms, alpha=alpha, do_sample=True, max_new_tokens=LENGTH, num_return_sequences=SAMPLES,
        eos_token_id=None, **{"top_k": 0} | settings,
    )  # fmt: skip
    limit = noise(expected, SAMPLES)
    assert total_variation(output, expected) < limit
    unguided = base.generate(
        prompt,
        do_sample=True,
        max_new_tokens=LENGTH,
        num_return_sequences=SAMPLES,
        eos_token_id=None,
        **{"top_k": 0} | settings,
    )
    assert total_variation(unguided, expected) > 1.5 * limit, "the test could not tell the base from the guided policy"


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["arm", "small base"])
def test_speculative_samples_follow_the_guided_policy(draft: str) -> None:
    base, arm = tiny("llama", **SMALL), tiny("llama", seed=1, **SMALL)
    prompt = torch.tensor([[3, 4, 5]])
    expected = policy(base, [arm], [1.0], prompt)
    assistant = arm if draft == "arm" else tiny("llama", seed=5, num_hidden_layers=1, **SMALL)
    guided = genarm_hf.guide(base, arm, 1.0)
    set_seed(0)
    settings = {
        "do_sample": True,
        "max_new_tokens": LENGTH,
        "top_k": 0,
        "eos_token_id": None,
        "assistant_model": assistant,
    }
    output = torch.cat([guided.generate(prompt, **settings) for _ in range(1500)])
    assert total_variation(output, expected) < noise(expected, 1500)


def test_forward_gives_the_policy_that_is_sampled() -> None:
    base, arm = tiny("llama", **SMALL), tiny("gpt2", seed=1, **SMALL)
    prompt = torch.tensor([[3, 4, 5]])
    expected = policy(base, [arm], [0.8], prompt)
    sequences = torch.tensor(list(itertools.product(range(8), repeat=LENGTH)))
    ids = torch.cat([prompt.expand(512, -1), sequences], 1)
    logprobs = genarm_hf.guide(base, arm, 0.8).token_logprobs(ids)[:, 3:].sum(-1)
    torch.testing.assert_close(logprobs.exp(), expected, atol=1e-6, rtol=1e-4)
