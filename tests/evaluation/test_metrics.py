"""Means, intervals and distances, against hand arithmetic and known quantiles."""

import numpy as np
import pytest
import torch

from genarm_hf.evaluation import log_ratios, mean_interval
from genarm_hf.evaluation.metrics import t_quantile


@pytest.mark.parametrize(("degrees", "expected"), [(3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (10**7, 1.960)])
def test_t_quantile_agrees_with_the_table(degrees, expected):
    assert t_quantile(0.975, degrees) == pytest.approx(expected, rel=2e-3)


def test_interval_by_hand():
    # mean 3, standard deviation sqrt(2.5), standard error sqrt(0.5), t(4) = 2.776
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (interval.mean, interval.count) == (3.0, 5)
    assert interval.half_width == pytest.approx(2.776 * 0.5**0.5, rel=1e-3)
    assert interval.high - interval.mean == pytest.approx(interval.mean - interval.low)


def test_interval_covers_the_expectation_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(loc=1.0, size=(2000, 8))
    covered = [interval.low <= 1.0 <= interval.high for interval in map(mean_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_interval_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="at least two finite numbers"):
        mean_interval(values)


def test_log_ratios_leave_padding_out_even_where_it_is_not_finite():
    policy, base = [[-1.0, -2.0, -np.inf]], [[-1.5, -2.25, -np.inf]]
    assert log_ratios(policy, base, [[1, 1, 0]]).tolist() == [0.75]


def test_log_ratios_take_tensors():
    assert log_ratios(torch.tensor([[-1.0]]), torch.tensor([[-1.0]])).tolist() == [0.0]


def test_log_ratios_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(samples, length\)"):
        log_ratios([[-1.0]], [[-1.0, -1.0]])


def test_mean_log_ratio_estimates_the_divergence():
    rng = np.random.default_rng(0)
    policy, base = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    tokens = rng.choice(3, p=policy, size=(4000, 5))
    estimate = mean_interval(log_ratios(np.log(policy)[tokens], np.log(base)[tokens]))
    exact = 5 * float((policy * np.log(policy / base)).sum())
    assert estimate.low < exact < estimate.high
