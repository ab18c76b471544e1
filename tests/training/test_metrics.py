"""Figures of held-out pairs: hand arithmetic first, then what must hold for any pairs."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf.training import metrics
from genarm_hf.training.metrics import (
    calibration,
    correlation,
    pair_accuracy,
    preference_metrics,
    preference_summary,
    rank_correlation,
    wilson,
)

# numbers on a grid: ties are common, and sums exact enough to compare
_logps = st.integers(-400, 0).map(lambda number: number / 4)
_lengths = st.integers(1, 30)
_pairs = st.lists(st.tuples(_logps, _logps, _lengths, _lengths), min_size=1, max_size=30)


def _columns(pairs: list[tuple[float, ...]]) -> list[np.ndarray]:
    return [np.array(column, dtype=float) for column in zip(*pairs, strict=True)]


def _close(one: Any, other: Any) -> bool:
    """Equal up to rounding, through dictionaries and lists."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return one == other if one is None or other is None else one == pytest.approx(other, abs=1e-9)


# ---------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # E.g. 8 of 10: Agresti and Coull (1998) and any table of Wilson's interval
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (500, 1000, 0.4691, 0.5309)],
)
def test_wilsons_interval(successes: float, count: int, low: float, high: float) -> None:
    interval = wilson(successes, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    assert interval.low <= interval.value <= interval.high


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_wilsons_interval_covers_as_often_as_it_says(share: float) -> None:
    wins = np.random.default_rng(0).binomial(40, share, size=4000)
    covered = [interval.low <= share <= interval.high for interval in (wilson(int(count), 40) for count in wins)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_ties_count_half() -> None:
    assert pair_accuracy([1.0, -1.0, 0.0, 0.0, 2.0]).value == 3 / 5
    assert pair_accuracy([0.0]).value == 0.5


def test_accuracy_by_length() -> None:
    """100 against 90 is within a tenth of the longer one, 100 against 89 is not."""
    summary = preference_summary([1, 1, 0, 0, 1], [0, 0, 1, 1, 0], [100, 90, 100, 89, 100], [90, 100, 89, 100, 89])
    assert {name: (one.value, one.count) for name, one in summary.by_length.items() if one} == {
        "similar": (1.0, 2),
        "longer": (0.5, 2),
        "shorter": (0.0, 1),
    }
    assert preference_summary([1], [0], [10], [10]).by_length["longer"] is None


def test_quarters_of_mean_length() -> None:
    lengths = np.arange(1.0, 9.0)
    summary = preference_summary([1, 1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1, 0, 1], lengths, lengths + 2)
    found = [(one.shortest, one.longest, one.accuracy.value) for one in summary.by_mean_length]
    assert found == [(2, 3, 1.0), (4, 5, 0.5), (6, 7, 0.0), (8, 9, 0.5)]


def test_equally_long_pairs_stay_together() -> None:
    (bucket,) = preference_summary([1, 0, 1], [0, 1, 0], [4, 4, 4], [4, 4, 4]).by_mean_length
    assert (bucket.shortest, bucket.longest, bucket.accuracy.count) == (4, 4, 3)


def test_length_only() -> None:
    summary = preference_summary([0, 0, 0, 0], [1, 1, 1, 1], [5, 5, 5, 9], [4, 4, 5, 20])
    assert (summary.length_only["longer"].value, summary.length_only["shorter"].value) == (2.5 / 4, 1.5 / 4)


def test_calibration_by_hand() -> None:
    """Two bins: three pairs at confidence 0.6 of which one is right, one at 0.9, right: |1/3 - 0.6| 3/4 + 0.1 / 4."""
    six, nine = math.log(0.6 / 0.4), math.log(0.9 / 0.1)
    found = calibration(np.array([six, -six, -six, nine]) / 0.5, beta=0.5, bins=5)
    assert [(one.confidence, one.accuracy.value, one.accuracy.count) for one in found.bins] == [
        (pytest.approx(0.6), 1 / 3, 3),
        (pytest.approx(0.9), 1.0, 1),
    ]
    assert found.error == pytest.approx(0.75 * (0.6 - 1 / 3) + 0.25 * 0.1)
    assert found.overconfidence == pytest.approx(2.7 / 4 - 0.5)


def test_bins_are_a_twentieth_wide() -> None:
    sure = np.array([0.51, 0.54, 0.56, 0.94, 0.96, 0.99])
    found = calibration(np.log(sure / (1 - sure)), beta=1.0)
    assert [one.accuracy.count for one in found.bins] == [2, 1, 1, 2]


def test_ties_and_certainty_are_in_the_outer_bins() -> None:
    found = calibration([0.0, 1e6, -1e6], beta=1.0)
    assert [(one.confidence, one.accuracy.value) for one in found.bins] == [(0.5, 0.5), (1.0, 0.5)]


def test_calibration_of_preferences_that_are_drawn_as_predicted() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.exponential(3, size=20000)
    signs = np.where(rng.random(20000) < 1 / (1 + np.exp(-0.3 * sizes)), 1, -1)
    assert calibration(signs * sizes, beta=0.3).error < 0.015
    assert calibration(signs * sizes, beta=0.9).overconfidence > 0.1
    assert calibration(signs * sizes, beta=0.1).overconfidence < -0.05


def test_margins() -> None:
    found = preference_summary([0, 3, 1, 1.5], [1, 0, 0, 0], [1] * 4, [1] * 4).margins
    assert (found.mean, found.median, found.above_one) == (4.5 / 4, 1.25, 0.5)


def test_correlations_by_hand() -> None:
    """x = 1, 2, 4 and y = 1, 3, 2: deviations (-4, -1, 5) / 3 and (-1, 1, 0)."""
    assert correlation([1, 2, 4], [1, 3, 2]) == pytest.approx(1 / math.sqrt(42 / 9 * 2))
    assert rank_correlation([1, 2, 4], [1, 3, 2]) == pytest.approx(0.5)


def test_rank_correlation_with_ties() -> None:
    """Ranks (1.5, 1.5, 3, 4) and (1, 2.5, 2.5, 4): the textbook value by Pearson of mean ranks."""
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2.5, 2.5, 4])[0, 1]
    assert rank_correlation([7, 7, 8, 100], [0, 5, 5, 6]) == pytest.approx(expected)


@pytest.mark.parametrize("constant", [[0.1] * 7, [1e-300] * 7, [3.0] * 7])
def test_what_does_not_vary_has_no_correlation(constant: list[float]) -> None:
    assert correlation(constant, range(7)) is None
    assert rank_correlation(range(7), constant) is None


def test_a_mean_over_batches_would_be_another_correlation() -> None:
    """Simpson: within each batch reward falls with length, over all pairs it rises."""
    rewards, lengths = np.array([1.0, 0.0, 11.0, 10.0]), np.array([1.0, 2.0, 11.0, 12.0])
    summary = preference_summary(rewards, np.zeros(4), lengths + 20, np.full(4, 20.0))
    within = [correlation(rewards[part], lengths[part]) for part in (slice(2), slice(2, 4))]
    assert within == [pytest.approx(-1), pytest.approx(-1)]
    assert summary.length_correlation is not None and summary.length_correlation > 0.9


def test_a_model_that_knows_only_length() -> None:
    rng = np.random.default_rng(1)
    chosen, rejected = rng.integers(1, 50, (2, 500)).astype(float)
    summary = preference_summary(chosen, rejected, chosen, rejected)
    shorter, longer = summary.by_length["shorter"], summary.by_length["longer"]
    assert shorter and longer and (shorter.value, longer.value) == (0, 1)
    assert summary.accuracy == summary.length_only["longer"]
    assert summary.length_correlation == summary.length_rank_correlation == pytest.approx(1)


# ---------------------------------------------------------------------- for any pairs


@given(_pairs, st.floats(0.01, 2))
@settings(deadline=None)
def test_swapping_all_labels(pairs: list[tuple[float, ...]], beta: float) -> None:
    chosen, rejected, long, short = _columns(pairs)
    one = preference_summary(chosen, rejected, long, short, beta=beta)
    other = preference_summary(rejected, chosen, short, long, beta=beta)
    assert other.accuracy.value == pytest.approx(1 - one.accuracy.value)
    assert other.accuracy.low == pytest.approx(1 - one.accuracy.high)
    assert other.margins.mean == pytest.approx(-one.margins.mean)
    assert other.length_only["longer"] == one.length_only["shorter"]
    assert _close(other.length_correlation, one.length_correlation)
    assert _close(other.length_rank_correlation, one.length_rank_correlation)
    assert (other.by_length["shorter"] is None) == (one.by_length["longer"] is None)
    assert one.calibration and other.calibration
    for mine, theirs in zip(one.calibration.bins, other.calibration.bins, strict=True):
        assert (theirs.confidence, theirs.accuracy.value) == pytest.approx((mine.confidence, 1 - mine.accuracy.value))


@given(_pairs, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_pairs_does_not_matter(pairs: list[tuple[float, ...]], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    one, other = (preference_summary(*_columns(rows), beta=0.1).to_dict() for rows in (pairs, shuffled))
    assert _close(one, other)


@given(_pairs)
@settings(deadline=None)
def test_buckets_and_bins_hold_every_pair_once(pairs: list[tuple[float, ...]]) -> None:
    summary = preference_summary(*_columns(pairs), beta=0.1)
    buckets = [one for one in summary.by_length.values() if one is not None]
    quarters = [one.accuracy for one in summary.by_mean_length]
    assert summary.calibration is not None
    for parts in (buckets, quarters, [one.accuracy for one in summary.calibration.bins]):
        assert sum(one.count for one in parts) == len(pairs)
    for parts in (buckets, quarters):
        assert sum(one.value * one.count for one in parts) == pytest.approx(summary.accuracy.value * len(pairs))


@given(_pairs)
@settings(deadline=None)
def test_numbers_are_within_their_ranges(pairs: list[tuple[float, ...]]) -> None:
    summary = preference_summary(*_columns(pairs), beta=0.1)
    assert 0 <= summary.accuracy.low <= summary.accuracy.value <= summary.accuracy.high <= 1
    assert summary.calibration is not None and 0 <= summary.calibration.error <= 1
    for value in (summary.length_correlation, summary.length_rank_correlation):
        assert value is None or -1 <= value <= 1


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=2, max_size=30))
@settings(deadline=None)
def test_pearsons_correlation_is_numpys(points: list[tuple[float, float]]) -> None:
    x, y = (np.array(column) for column in zip(*points, strict=True))
    if min(np.std(x), np.std(y)) < 1e-3:
        return  # numpy itself loses its digits there
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_ranks_are_places_in_the_sorted_list(values: list[int]) -> None:
    ordered = sorted(values)
    mean_places = [np.mean([place for place, one in enumerate(ordered, 1) if one == value]) for value in values]
    assert metrics._ranks(values).tolist() == pytest.approx(mean_places)


# ---------------------------------------------------------------------- logs, json, bad input


def test_metrics_for_logs() -> None:
    found = preference_metrics([-2.0, -5.0, -1.0], [-4.0, -4.0, -9.0], [3, 8, 5], [5, 6, 5], beta=0.5)
    assert found["rewards/accuracy"] == pytest.approx(2 / 3)
    assert (found["rewards/margin"], found["rewards/margin_median"]) == (1.5, 1.0)
    assert found["rewards/accuracy_chosen_shorter"] == 1 and found["rewards/accuracy_chosen_longer"] == 0
    assert {"calibration_error", "overconfidence", "length_correlation", "length_only_accuracy"} <= found.keys()
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_what_is_undefined_is_not_logged() -> None:
    found = preference_metrics([-1.0], [-2.0], [3], [3], beta=1.0)
    assert not {"length_correlation", "length_rank_correlation", "rewards/accuracy_chosen_longer"} & found.keys()


def test_a_summary_survives_json() -> None:
    summary = preference_summary([-2.0, -5.0], [-4.0, -4.0], [3, 8], [5, 6], beta=0.5).to_dict()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert preference_summary([-2.0], [-4.0], [3], [5]).to_dict()["calibration"] is None


@pytest.mark.parametrize(
    ("columns", "beta", "message"),
    [
        (([], [], [], []), 0.1, "at least one pair"),
        (([1.0], [1.0, 2.0], [1], [1]), 0.1, r"one shape \(pairs,\).* got \(1,\), \(2,\)"),
        (([[1.0]], [[1.0]], [[1]], [[1]]), 0.1, "one shape"),
        (([1.0, math.nan], [1.0, 1.0], [1, 1], [1, 1]), 0.1, "`chosen_logps` must be finite, got nan for pair 1"),
        (([1.0], [-math.inf], [1], [1]), 0.1, "`rejected_logps` must be finite, got -inf"),
        (([1.0], [1.0], [0], [1]), 0.1, "`chosen_lengths` must be positive, got 0.0 for pair 0"),
        (([1.0], [1.0], [1], [1]), 0.0, "`beta` must be a positive number, got 0.0"),
        (([1.0], [1.0], [1], [1]), math.nan, "`beta`"),
    ],
)
def test_bad_input(columns: tuple[list, ...], beta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preference_summary(*columns, beta=beta)
