"""Means, intervals, win rates and distances, against hand arithmetic, known quantiles and plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genarm_hf.evaluation import (
    bootstrap_interval,
    compare,
    distinct_n,
    exact_kl,
    gap_recovered,
    log_ratios,
    mean_interval,
    perplexity,
    win_rates,
)
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


# ---------------------------------------------------------------------- bootstrap


def every_resample(values: np.ndarray) -> list[float]:
    """The mean of every possible resample of seeds and prompts, by loops."""
    seeds, prompts = (list(itertools.product(range(size), repeat=size)) for size in values.shape)
    return [float(np.mean([[values[s, p] for p in columns] for s in rows])) for rows in seeds for columns in prompts]


def test_bootstrap_draws_what_enumeration_lists():
    values = np.array([[0.0, 1.0, 5.0], [2.0, 2.5, 4.0]])
    exact = every_resample(values)
    for confidence in (0.5, 0.8, 0.95):
        interval = bootstrap_interval(values, confidence=confidence, resamples=40_000)
        low, high = np.quantile(exact, [(1 - confidence) / 2, (1 + confidence) / 2])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.06)
    assert (interval.mean, interval.count) == (pytest.approx(values.mean()), 6)


def test_bootstrap_over_prompts_alone_has_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval(values, resamples=4000)
    assert interval.half_width == pytest.approx(1.96 * values.std() / 20, rel=0.06)
    # the same prompts under several seeds that change nothing are no further knowledge
    assert bootstrap_interval(np.tile(values, (5, 1))).half_width == pytest.approx(interval.half_width, rel=0.08)


@pytest.mark.parametrize(
    ("of_seeds", "of_prompts", "of_replies", "least", "most"),
    [(0, 1, 0, 0.91, 0.98), (0, 1, 1, 0.93, 1), (0, 0, 1, 0.97, 1), (1, 0, 0, 0.72, 0.92)],
)
def test_bootstrap_covers_as_it_says(of_seeds, of_prompts, of_replies, least, most):
    rng, covered = np.random.default_rng(0), []
    for seed in range(200):
        values = of_seeds * rng.normal(size=(5, 1)) + of_prompts * rng.normal(size=(1, 60))
        interval = bootstrap_interval(values + of_replies * rng.normal(size=(5, 60)), resamples=300, seed=seed)
        covered.append(interval.low <= 0 <= interval.high)
    assert least <= np.mean(covered) <= most


def test_bootstrap_is_repeatable_and_does_not_depend_on_its_chunks(monkeypatch):
    values = np.random.default_rng(1).normal(size=(3, 20))
    whole = bootstrap_interval(values, resamples=100)
    assert bootstrap_interval(values, resamples=100) == whole != bootstrap_interval(values, resamples=100, seed=1)
    monkeypatch.setattr("genarm_hf.evaluation.metrics._CHUNK", 1)
    assert bootstrap_interval(values, resamples=2000).half_width == pytest.approx(whole.half_width, rel=0.3)


def test_pairing_removes_what_prompts_share():
    rng = np.random.default_rng(0)
    prompts = 10 * rng.normal(size=(1, 100))
    one, other = (prompts + shift + 0.1 * rng.normal(size=(3, 100)) for shift in (0.5, 0.0))
    paired = bootstrap_interval(one - other)
    assert paired.low > 0.3 and paired.high < 0.7
    same = bootstrap_interval(one, other, statistic=lambda a, b: a.mean((1, 2)) - b.mean((1, 2)))
    assert (same.low, same.high) == pytest.approx((paired.low, paired.high))


@pytest.mark.parametrize("values", [[], [[1.0]], [[[1.0, 2.0]]], [[], []]])
def test_bootstrap_of_other_shapes_is_refused(values):
    with pytest.raises(ValueError, match=r"one shape \(seeds, prompts\)"):
        bootstrap_interval(values)
    with pytest.raises(ValueError, match="one shape"):
        bootstrap_interval([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_bad_options_of_the_bootstrap_are_refused(options):
    with pytest.raises(ValueError, match="`confidence` must be"):
        bootstrap_interval([1.0, 2.0], **options)


def test_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="must be finite, got nan"):
        bootstrap_interval([np.nan, np.nan])


# ---------------------------------------------------------------------- win rates


def test_win_rates_by_hand():
    rates = win_rates([[1, 0, -1, 1], [1, 1, np.nan, 0]])
    assert [share.mean for share in (rates.win, rates.tie, rates.loss)] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert (rates.win_rate.mean, rates.win_rate.count, rates.failed) == (pytest.approx(5 / 7), 7, 1)
    assert rates.win_rate.low < 5 / 7 < rates.win_rate.high


@given(st.lists(st.sampled_from([1.0, 0.0, -1.0, np.nan]), min_size=2, max_size=30))
def test_shares_add_up_and_swapping_systems_mirrors_them(found):
    outcomes = np.array([*found, 0.0])  # one verdict at least
    rates, mirrored = (win_rates(sign * outcomes, resamples=20) for sign in (1, -1))
    assert rates.win.mean + rates.tie.mean + rates.loss.mean == pytest.approx(1)
    assert rates.win_rate.mean == pytest.approx(rates.win.mean + rates.tie.mean / 2)
    assert (mirrored.win, mirrored.tie, mirrored.loss) == (rates.loss, rates.tie, rates.win)
    assert mirrored.win_rate.mean == pytest.approx(1 - rates.win_rate.mean)
    assert rates.failed + rates.win.count == len(outcomes)


@pytest.mark.parametrize("outcomes", [[1, 2], [0.5, 0], [np.nan, np.nan], [np.inf, 1]])
def test_other_outcomes_are_refused(outcomes):
    with pytest.raises(ValueError, match="`outcomes` must be 1"):
        win_rates(outcomes)


def test_scores_are_compared_with_tolerance():
    assert compare([1.0, 1.1, 1.3], [1.2, 1.2, 1.2], tolerance=0.1 + 1e-9).tolist() == [-1, 0, 0]
    assert np.isnan(compare([np.nan, np.inf], [1.0, np.inf])).tolist() == [True, True]
    with pytest.raises(ValueError, match="one shape"):
        compare([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="`tolerance`"):
        compare([1.0], [1.0], tolerance=-1)


# ---------------------------------------------------------------------- gaps, distances, fluency


def test_gap_recovered_by_hand_and_between_its_ends():
    rng = np.random.default_rng(0)
    floor = rng.normal(size=(5, 200))
    ceiling, system = floor + 2 + 0.1 * rng.normal(size=(5, 200)), floor + 1.5
    interval = gap_recovered(system, floor, ceiling)
    assert interval.mean == pytest.approx(1.5 / (ceiling - floor).mean())
    assert 0.7 < interval.low < interval.mean < interval.high < 0.8
    assert gap_recovered(floor, floor, ceiling).high == 0 and gap_recovered(ceiling, floor, ceiling).low == 1


def test_a_gap_that_is_hardly_there_has_a_wide_interval():
    rng = np.random.default_rng(0)
    floor, ceiling, system = (rng.normal(size=50) + shift for shift in (0, 0.1, 0.1))
    interval = gap_recovered(system, floor, ceiling)
    assert interval.high - interval.low > 2


def test_no_gap_is_refused():
    with pytest.raises(ValueError, match="no gap"):
        gap_recovered([1.0, 2.0], [1.0, 1.0], [1.0, 1.0])


def test_exact_divergence():
    p, q = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), np.array([[0.25, 0.75, 0.0], [0.2, 0.8, 0.0]])
    with np.errstate(divide="ignore"):
        found = exact_kl(np.log(p), np.log(q))
        assert exact_kl(np.log(q[1]), np.log(p[1])) == np.inf
    assert found == pytest.approx([0.5 * np.log(2) + 0.5 * np.log(2 / 3), np.log(5)])


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8))
def test_divergence_is_positive_and_zero_for_equals(logits):
    p, q = (torch.tensor(side, dtype=torch.float64).log_softmax(-1).numpy() for side in zip(*logits, strict=True))
    assert exact_kl(p, q) >= -1e-12 and exact_kl(p, p) == pytest.approx(0)


def test_divergence_of_no_distributions_is_refused():
    with pytest.raises(ValueError, match=r"`q_logprobs` must add up to 1, got 2\.0"):
        exact_kl(np.log([0.5, 0.5]), [0.0, 0.0])
    with pytest.raises(ValueError, match="one shape"):
        exact_kl(np.log([0.5, 0.5]), [0.0])


def test_perplexity_counts_tokens_not_replies():
    logprobs = np.log([[0.5, 0.5, 0.5], [0.125, 1.0, 1.0]])
    assert perplexity(logprobs, [[1, 1, 1], [1, 0, 0]]) == pytest.approx((8 * 8) ** (1 / 4))
    with pytest.raises(ValueError, match="a token at least"):
        perplexity(logprobs, np.zeros((2, 3)))


def test_distinct_n():
    assert distinct_n(["a b c", "a b d"], 1) == 4 / 6
    assert distinct_n(["a b c", "a b d"], 2) == 3 / 4
    assert distinct_n([[1, 2], [2, 1], [7]], 2) == 1  # n-grams do not cross texts
    with pytest.raises(ValueError, match="No text has 3 words"):
        distinct_n(["a b", ""], 3)
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        distinct_n(["a"], 0)
