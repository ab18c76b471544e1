"""Sampled tokens follow the guided distribution, and log-probabilities in replies are those of it."""

import pytest
import torch

import genarm_hf

from ..conftest import VOCAB
from .conftest import params, random_prompts, start

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

DRAWS = 2000


@pytest.fixture(scope="module")
def engine(zoo):
    return start(zoo.compose("base", ["same", "qwen2"]), max_num_seqs=256, seed=0)


def guided_logprobs(zoo, prompt, alpha, temperature=1.0):
    model = genarm_hf.guide(zoo.model("base"), reward_models=[zoo.model("same"), zoo.model("qwen2")], alpha=alpha)
    with torch.no_grad():
        return (model(torch.tensor([prompt])).logits[0, -1].float() / temperature).log_softmax(-1)


def frequencies(output):
    tokens = torch.tensor([choice.token_ids[0] for choice in output.outputs])
    return torch.bincount(tokens, minlength=VOCAB) / len(tokens)


def test_two_trade_offs_are_sampled_in_one_batch(zoo, engine):
    """Total variation is within what as many exact draws show: its mean is below sum sqrt(p (1 - p) / 2 pi n)."""
    prompt = random_prompts([7], seed=1)[0]
    temperature = 2.0
    alphas = ([0.5, 0.3], [-0.4, 0.8])
    outputs = engine.generate(
        [{"prompt_token_ids": prompt}] * 2,
        [params(alpha, 1, n=DRAWS, temperature=temperature) for alpha in alphas],
        use_tqdm=False,
    )
    exact = [guided_logprobs(zoo, prompt, alpha, temperature).exp() for alpha in alphas]
    noise = [float((p * (1 - p) / (2 * torch.pi * DRAWS)).sqrt().sum()) for p in exact]
    distances = [[float((frequencies(output) - p).abs().sum()) / 2 for p in exact] for output in outputs]
    for own, other in ((0, 1), (1, 0)):
        assert distances[own][own] < 1.5 * noise[own] < 0.1
        assert distances[own][other] > 0.2


def test_logprobs_in_replies_are_the_guided_ones(zoo, engine):
    prompt = random_prompts([5], seed=2)[0]
    for alpha in ([0.5, -0.3], 0):
        output = engine.generate({"prompt_token_ids": prompt}, params(alpha, 1, logprobs=5), use_tqdm=False)[0]
        exact = guided_logprobs(zoo, prompt, alpha)
        for token, found in output.outputs[0].logprobs[0].items():
            assert found.logprob == pytest.approx(float(exact[token]), abs=1e-4)


def test_penalties_act_on_the_guided_distribution(zoo, engine):
    prompt = random_prompts([5], seed=3)[0]
    found = engine.generate({"prompt_token_ids": prompt}, params(0.5, 12, repetition_penalty=1.7), use_tqdm=False)[0]
    reference = zoo.model("base").generate(
        torch.tensor([prompt]),
        reward_models=[zoo.model("same"), zoo.model("qwen2")],
        alpha=0.5,
        max_new_tokens=12,
        do_sample=False,
        repetition_penalty=1.7,
        eos_token_id=-1,
    )
    assert list(found.outputs[0].token_ids) == reference[0, len(prompt) :].tolist()


def test_tokens_that_are_masked_stay_masked(zoo, engine):
    """By `allowed_token_ids`, whatever the sign of alpha."""
    prompt = random_prompts([5], seed=4)[0]
    allowed = [7, 11, 30]
    for alpha in (2.0, -2.0):
        output = engine.generate(
            {"prompt_token_ids": prompt}, params(alpha, 8, allowed_token_ids=allowed), use_tqdm=False
        )[0]
        assert set(output.outputs[0].token_ids) <= set(allowed)
