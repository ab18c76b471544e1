"""Enumerated worlds: hand arithmetic, then the theorem and when the plain rule is exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf.reproduce import worlds
from genarm_hf.training.losses import preference_loss

SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 3))


def world(shape, seed):
    base = worlds.random_tables(*shape, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return base, torch.randn(shape[0] ** shape[1], generator=generator, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 1000))
def test_tables_and_texts_say_the_same(shape, seed):
    base, _ = world(shape, seed)
    texts = worlds.text_logprobs(base)
    assert texts.shape == (shape[0] ** shape[1],)
    torch.testing.assert_close(texts.exp().sum(), torch.ones((), dtype=torch.float64))
    for back, table in zip(worlds.conditionals(texts, *shape), base, strict=True):
        torch.testing.assert_close(back, table)


def test_texts_are_in_lexicographic_order():
    first = torch.tensor([[0.25, 0.75]]).log()
    second = torch.tensor([[0.5, 0.5], [0.125, 0.875]]).log()
    torch.testing.assert_close(
        worlds.text_logprobs([first, second]).exp(), torch.tensor([0.125, 0.125, 0.09375, 0.65625])
    )


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.3, 1.0, 4.0, -1.0]))
def test_the_theorem(shape, seed, alpha):
    base, rewards = world(shape, seed)
    arm = worlds.exact_arm(base, rewards, alpha)
    guided = worlds.text_logprobs(worlds.guided(base, arm, alpha))
    torch.testing.assert_close(guided, worlds.reweighted(worlds.text_logprobs(base), rewards, alpha))


@pytest.mark.parametrize(
    ("shape", "uniform", "alpha", "exact"),
    [((3, 1), False, 2.0, True), ((3, 3), True, 1.0, True), ((3, 3), True, 2.0, False), ((3, 3), False, 1.0, False)],
)
def test_where_the_optimum_of_the_papers_loss_guides_to_the_optimum(shape, uniform, alpha, exact):
    base, rewards = world(shape, 0)
    if uniform:
        base = [torch.zeros_like(table).log_softmax(-1) for table in base]
    arm = worlds.conditionals(rewards, *shape)
    guided = worlds.text_logprobs(worlds.guided(base, arm, alpha))
    distance = worlds.kl(guided, worlds.reweighted(worlds.text_logprobs(base), rewards, alpha))
    assert (distance < 1e-12) == exact and (exact or distance > 1e-3)


def test_preferences_of_two_texts():
    found = worlds.preferences(torch.tensor([0.25, 0.75]).log(), torch.tensor([math.log(3), 0.0]))
    # drawn together with probability 2 * 3/16, the first then wins three times out of four
    torch.testing.assert_close(found, torch.tensor([[1 / 16, 9 / 32], [3 / 32, 9 / 16]]))
    counts = worlds.sampled(found, 4000, seed=0)
    assert counts.sum().item() == pytest.approx(1)
    torch.testing.assert_close(counts, found, atol=0.03, rtol=0)


def test_gradient_is_that_of_the_loss_of_training():
    base, rewards = world((3, 2), 0)
    pairs = worlds.preferences(worlds.text_logprobs(base), rewards)
    model = torch.randn(9, dtype=torch.float64, requires_grad=True)
    loss = (pairs * preference_loss(model[:, None], model, beta=1.0)).sum()
    loss.backward()
    assert worlds.preference_loss(model.detach(), pairs) == pytest.approx(loss.item())
    torch.testing.assert_close(worlds.preference_gradient(model.detach(), pairs), model.grad)


def test_kl():
    assert worlds.kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )
