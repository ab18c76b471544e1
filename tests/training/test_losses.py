"""Preference loss: hand arithmetic, gradients, symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf.training.losses import length_normalized, preference_loss

logps = st.floats(-200, 0, allow_nan=False)
betas = st.floats(0.01, 5)
smoothings = st.floats(0, 0.49)


def _loss(chosen: float, rejected: float, beta: float, **options: float) -> float:
    pair = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    return preference_loss(*pair, beta, **options).item()


@pytest.mark.parametrize(
    ("chosen", "rejected", "beta", "options", "expected"),
    [
        (-5.0, -5.0, 0.05, {}, math.log(2)),
        (-2.0, -4.0, 0.5, {}, math.log(1 + math.exp(-1))),
        (-4.0, -2.0, 0.5, {}, math.log(1 + math.exp(1))),
        (-2.0, -4.0, 0.5, {"margin": 1.0}, math.log(2)),
        (
            -2.0,
            -4.0,
            0.5,
            {"label_smoothing": 0.25},
            0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.exp(1)),
        ),
        (-2.0, -4.0, 0.25, {"loss_type": "hinge"}, 0.5),
        (-4.0, -2.0, 0.25, {"loss_type": "hinge"}, 1.5),
        (-2.0, -4.0, 0.25, {"loss_type": "hinge", "margin": 0.25}, 0.75),
        (-2.0, -8.0, 0.25, {"loss_type": "hinge"}, 0.0),
    ],
)
def test_by_hand(chosen: float, rejected: float, beta: float, options: dict, expected: float) -> None:
    assert _loss(chosen, rejected, beta, **options) == pytest.approx(expected)


def test_one_loss_and_margin_per_pair() -> None:
    chosen, rejected = torch.tensor([-2.0, -2.0]), torch.tensor([-4.0, -4.0])
    losses = preference_loss(chosen, rejected, 0.5, margin=torch.tensor([0.0, 1.0]))
    assert torch.allclose(losses, torch.tensor([math.log(1 + math.exp(-1)), math.log(2)]))


def test_extreme_differences_stay_finite() -> None:
    losses = preference_loss(torch.tensor([0.0, -1e6]), torch.tensor([-1e6, 0.0]), 1.0, label_smoothing=0.1)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient(smoothing: float) -> None:
    """d loss / d chosen = -beta * (sigmoid(-z) - smoothing), and its opposite for rejected."""
    chosen, rejected = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-3.0, -4.5))
    preference_loss(chosen, rejected, 0.7, 0.1, smoothing).sum().backward()
    z = 0.7 * 1.5 - 0.1
    expected = -0.7 * (1 / (1 + math.exp(z)) - smoothing)
    assert chosen.grad.item() == pytest.approx(expected)
    assert rejected.grad.item() == pytest.approx(-expected)
    inputs = tuple(torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-3.0, -4.5))
    assert torch.autograd.gradcheck(lambda c, r: preference_loss(c, r, 0.7, 0.1, smoothing), inputs)


@given(logps, logps, betas, smoothings)
@settings(deadline=None)
def test_swapping_the_pair(chosen: float, rejected: float, beta: float, smoothing: float) -> None:
    """loss(a, b) - loss(b, a) = -(1 - 2 smoothing) * beta * (a - b)."""
    difference = _loss(chosen, rejected, beta, label_smoothing=smoothing) - _loss(
        rejected, chosen, beta, label_smoothing=smoothing
    )
    assert difference == pytest.approx(-(1 - 2 * smoothing) * beta * (chosen - rejected), abs=1e-9)


@given(logps, logps, betas, st.floats(-3, 3), st.floats(-50, 50))
@settings(deadline=None)
def test_only_the_difference_counts(chosen: float, rejected: float, beta: float, margin: float, shift: float) -> None:
    moved = _loss(chosen + shift, rejected + shift, beta, margin=margin)
    assert moved == pytest.approx(_loss(chosen, rejected, beta, margin=margin), abs=1e-9)
    assert _loss(chosen + margin / beta, rejected, beta, margin=margin) == pytest.approx(
        _loss(chosen, rejected, beta), abs=1e-9
    )


@given(logps, logps, betas, st.floats(0.01, 0.49))
@settings(deadline=None)
def test_smoothed_loss_is_least_where_the_model_is_as_sure_as_the_labels(
    chosen: float, rejected: float, beta: float, smoothing: float
) -> None:
    best = math.log((1 - smoothing) / smoothing) / beta
    entropy = -smoothing * math.log(smoothing) - (1 - smoothing) * math.log(1 - smoothing)
    assert _loss(best, 0.0, beta, label_smoothing=smoothing) == pytest.approx(entropy)
    assert _loss(chosen, rejected, beta, label_smoothing=smoothing) >= entropy - 1e-9


@given(logps, logps, betas)
@settings(deadline=None)
def test_hinge_and_likelihood_push_the_same_way(chosen: float, rejected: float, beta: float) -> None:
    """Both fall with the difference; the hinge lies within 1 of -z and reaches 0 at z = 1."""
    z = beta * (chosen - rejected)
    assert _loss(chosen, rejected, beta, loss_type="hinge") == pytest.approx(max(0.0, 1 - z), abs=1e-9)
    assert _loss(chosen, rejected, beta, loss_type="hinge") >= _loss(chosen + 1, rejected, beta, loss_type="hinge")


def test_hinge_leaves_pairs_alone_that_are_far_enough_apart() -> None:
    chosen = torch.tensor([-1.0, -1.0], requires_grad=True)
    preference_loss(chosen, torch.tensor([-2.0, -9.0]), 0.5, loss_type="hinge").sum().backward()
    assert chosen.grad is not None and chosen.grad.tolist() == [-0.5, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ipo"}, r"`loss_type` must be one of \('sigmoid', 'hinge'\), got 'ipo'"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "`label_smoothing` is a probability, .* got 0.1"),
    ],
)
def test_losses_that_do_not_exist(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loss(-1.0, -2.0, 0.1, **options)


@given(st.integers(1, 50), st.floats(-5, -0.01))
@settings(deadline=None)
def test_equally_likely_tokens_are_worth_the_same_at_any_length(length: int, per_token: float) -> None:
    logps = torch.tensor([length * per_token], dtype=torch.float64)
    assert length_normalized(logps, torch.tensor([length])).item() == pytest.approx(per_token)
