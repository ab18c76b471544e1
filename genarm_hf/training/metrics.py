"""What a reward model's judgements of held-out pairs are worth: arrays in, numbers out, for all pairs at once.

Accuracy with its interval, the part of it that length alone explains, calibration, margins. Nothing here needs torch.
Shapes use the legend `pairs`; log-probabilities are in nats, lengths in tokens of the response.
"""

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SIMILAR_LENGTH = 0.1
"""Responses are about equally long that differ by at most this share of the longer one."""


@dataclass(frozen=True)
class Accuracy:
    """A share of pairs and its confidence interval.

    Attributes:
        value: the share; pairs with equal rewards count half.
        low: where the interval starts.
        high: where it ends.
        count: how many pairs there were.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class LengthBucket:
    """Accuracy on the pairs of some length.

    Attributes:
        shortest: mean length of the two responses, in tokens, of the bucket's shortest pair.
        longest: of its longest pair.
        accuracy: on its pairs.
    """

    shortest: float
    longest: float
    accuracy: Accuracy


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs for which the model was about equally sure.

    Attributes:
        confidence: mean probability that the model gave to the responses that it preferred.
        accuracy: how often people preferred them too.
    """

    confidence: float
    accuracy: Accuracy


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed preference.

    Attributes:
        error: expected calibration error: mean distance of confidence and accuracy over the bins, each as heavy as the
            pairs in it (arXiv 1706.04599).
        overconfidence: mean confidence less accuracy; negative where the model is too modest.
        bins: those that are not empty, from unsure to sure.
    """

    error: float
    overconfidence: float
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class Margins:
    """By how much the reward of chosen exceeds that of rejected, in nats (before beta).

    Attributes:
        mean: over all pairs.
        median: likewise.
        low: a tenth of the pairs lies below.
        high: a tenth lies above.
        above_one: share of pairs with more than one nat.
    """

    mean: float
    median: float
    low: float
    high: float
    above_one: float


@dataclass(frozen=True)
class PreferenceSummary:
    """Everything that is known of a reward model on a set of pairs.

    Attributes:
        beta: inverse temperature that preferences were predicted with. None: unknown, and with it the calibration.
        accuracy: share of pairs whose chosen response has the higher reward.
        by_length: the same where chosen is `shorter` than rejected, of `similar` length, and `longer`; None where there
            are no such pairs.
        by_mean_length: the same for equally many pairs each, from short to long.
        length_only: accuracy of always preferring the `longer` response, and of the `shorter`.
        calibration: predicted against observed preference.
        margins: reward of chosen less reward of rejected.
        length_correlation: Pearson's, over all pairs, of the difference in reward and the difference in length (chosen
            less rejected). None where one of them does not vary.
        length_rank_correlation: Spearman's.
    """

    beta: float | None
    accuracy: Accuracy
    by_length: dict[str, Accuracy | None]
    by_mean_length: list[LengthBucket]
    length_only: dict[str, Accuracy]
    calibration: Calibration | None
    margins: Margins
    length_correlation: float | None
    length_rank_correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for json."""
        return asdict(self)


def preference_summary(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    beta: float | None = None,
    confidence: float = 0.95,
) -> PreferenceSummary:
    """Judge the rewards of held-out pairs.

    Args:
        chosen_logps: `(pairs,)`, rewards of the preferred responses: log-probabilities, or their excess over a
            reference model's (the implicit reward of DPO, arXiv 2305.18290).
        rejected_logps: `(pairs,)`, those of the others.
        chosen_lengths: `(pairs,)`, tokens of the preferred responses.
        rejected_lengths: `(pairs,)`, tokens of the others.
        beta: inverse temperature of training: preferences are predicted as `sigmoid(beta * difference)`. None: they are
            not predicted.
        confidence: probability that an interval covers the expectation.

    Raises:
        ValueError: there is no pair, shapes differ, a number is not finite, a length or beta is not positive.

    Example:
        >>> summary = preference_summary([-2.0, -5.0], [-4.0, -4.0], [3, 8], [5, 6], beta=0.5)
        >>> summary.accuracy.value, summary.by_length["shorter"].value, summary.length_correlation
        (0.5, 1.0, -1.0)
    """
    chosen, rejected, long, short = _checked(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    check_beta(beta)
    differences, extra = chosen - rejected, long - short
    return PreferenceSummary(
        beta=beta,
        accuracy=pair_accuracy(differences, confidence),
        by_length=accuracy_by_length(differences, long, short, confidence),
        by_mean_length=accuracy_by_mean_length(differences, (long + short) / 2, confidence=confidence),
        length_only={"longer": pair_accuracy(extra, confidence), "shorter": pair_accuracy(-extra, confidence)},
        calibration=None if beta is None else calibration(differences, beta, confidence=confidence),
        margins=margins(differences),
        length_correlation=correlation(differences, extra),
        length_rank_correlation=rank_correlation(differences, extra),
    )


def preference_metrics(
    chosen_logps: ArrayLike,
    rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    beta: float,
) -> dict[str, float]:
    """[`preference_summary`] as one level of numbers, for logs; what is undefined is left out.

    Margins are those of `beta * reward` here, as the trainer logs them.

    Example:
        >>> metrics = preference_metrics([-2.0, -5.0], [-4.0, -4.0], [3, 8], [5, 6], beta=0.5)
        >>> metrics["rewards/accuracy"], metrics["rewards/margin"], metrics["length_correlation"]
        (0.5, 0.25, -1.0)
    """
    return flat(preference_summary(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, beta=beta))


def flat(summary: PreferenceSummary) -> dict[str, float]:
    """A summary with a beta as one level of numbers, see [`preference_metrics`]."""
    beta = 1.0 if summary.beta is None else summary.beta
    numbers: dict[str, float | None] = {
        "rewards/accuracy": summary.accuracy.value,
        "rewards/accuracy_low": summary.accuracy.low,
        "rewards/accuracy_high": summary.accuracy.high,
        "rewards/margin": beta * summary.margins.mean,
        "rewards/margin_median": beta * summary.margins.median,
        "length_correlation": summary.length_correlation,
        "length_rank_correlation": summary.length_rank_correlation,
        "length_only_accuracy": max(one.value for one in summary.length_only.values()),
    }
    for name, accuracy in summary.by_length.items():
        numbers[f"rewards/accuracy_chosen_{name}"] = None if accuracy is None else accuracy.value
    if summary.calibration is not None:
        numbers["calibration_error"] = summary.calibration.error
        numbers["overconfidence"] = summary.calibration.overconfidence
    return {name: value for name, value in numbers.items() if value is not None}


def check_beta(beta: float | None) -> None:
    """Refuse an inverse temperature that is none.

    Raises:
        ValueError: it is neither positive nor None.
    """
    if beta is not None and not 0 < beta < float("inf"):
        raise ValueError(f"`beta` must be a positive number, got {beta!r}.")


def _checked(*columns: ArrayLike) -> tuple[Array, ...]:
    names = ("chosen_logps", "rejected_logps", "chosen_lengths", "rejected_lengths")
    arrays = tuple(np.asarray(column, dtype=np.float64) for column in columns)
    shapes = ", ".join(str(array.shape) for array in arrays)
    if arrays[0].ndim != 1 or not arrays[0].size or any(array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"`{'`, `'.join(names)}` must have one shape (pairs,) with at least one pair, got {shapes}.")
    for name, array in zip(names, arrays, strict=True):
        wrong = ~np.isfinite(array) | ((array <= 0) if "lengths" in name else False)
        if wrong.any():
            rule = "positive" if "lengths" in name else "finite"
            row = int(wrong.argmax())
            raise ValueError(f"`{name}` must be {rule}, got {array[row]} for pair {row}.")
    return arrays


# ---------------------------------------------------------------------- accuracy


def wilson(successes: float, count: int, confidence: float = 0.95) -> Accuracy:
    """A share with Wilson's score interval, which stays within 0 and 1 and holds for few pairs too.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927). Where ties count
    half, their spread is less than that of wins and losses, and the interval errs on the wide side.

    Args:
        successes: how many, ties as a half.
        count: of how many, at least 1.
        confidence: probability that the interval covers the expectation.

    Example:
        >>> interval = wilson(8, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.49, 0.943)
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / count
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    # rounding must not put the share of no success, or of nothing else, outside of its interval
    return Accuracy(
        share, min(max(float(center - half), 0.0), share), max(min(float(center + half), 1.0), share), count
    )


def pair_accuracy(differences: ArrayLike, confidence: float = 0.95) -> Accuracy:
    """Share of pairs whose difference in reward, chosen less rejected, is above 0; ties count half.

    Example:
        >>> pair_accuracy([1.5, -0.2, 0.0, 3.0]).value
        0.625
    """
    outcomes = _outcomes(np.asarray(differences, dtype=np.float64))
    return wilson(float(outcomes.sum()), outcomes.size, confidence)


def _outcomes(differences: Array) -> Array:
    """1 for a win of chosen, 0 for a loss, 1/2 for a tie."""
    return (np.sign(differences) + 1) / 2


def accuracy_by_length(
    differences: Array, chosen_lengths: Array, rejected_lengths: Array, confidence: float = 0.95
) -> dict[str, Accuracy | None]:
    """Accuracy where chosen is `shorter`, of `similar` length (`SIMILAR_LENGTH`) or `longer`; None without such pairs.

    A model that knows only length is right in one of the outer buckets and wrong in the other.
    """
    similar = abs(chosen_lengths - rejected_lengths) <= SIMILAR_LENGTH * np.maximum(chosen_lengths, rejected_lengths)
    masks = {
        "shorter": (chosen_lengths < rejected_lengths) & ~similar,
        "similar": similar,
        "longer": (chosen_lengths > rejected_lengths) & ~similar,
    }
    return {name: pair_accuracy(differences[mask], confidence) if mask.any() else None for name, mask in masks.items()}


def accuracy_by_mean_length(
    differences: Array, mean_lengths: Array, buckets: int = 4, confidence: float = 0.95
) -> list[LengthBucket]:
    """Accuracy by quantiles of the pairs' mean length; pairs of one length are never parted.

    Args:
        differences: `(pairs,)`.
        mean_lengths: `(pairs,)`, of the two responses of each pair.
        buckets: how many; there are fewer where many pairs are equally long.
        confidence: of the intervals.
    """
    edges = np.quantile(mean_lengths, np.arange(1, buckets) / buckets)
    places = np.searchsorted(edges, mean_lengths)
    return [
        LengthBucket(
            float(mean_lengths[places == place].min()),
            float(mean_lengths[places == place].max()),
            pair_accuracy(differences[places == place], confidence),
        )
        for place in np.unique(places)
    ]


# ---------------------------------------------------------------------- calibration and margins


def calibration(differences: ArrayLike, beta: float, bins: int = 10, confidence: float = 0.95) -> Calibration:
    """How often people agree with the model, against how often it expects them to.

    The label says "chosen" of every pair, so that predictions of that label would be compared with a constant. Each
    pair is therefore turned to the response that the model prefers: its confidence `sigmoid(beta * |difference|)` lies
    between 1/2 and 1, and it was right if that response is the chosen one. Ties have confidence 1/2 and are half right.

    Args:
        differences: `(pairs,)`, reward of chosen less reward of rejected, in nats.
        beta: inverse temperature.
        bins: of equal width between 1/2 and 1; those without a pair are left out.
        confidence: of the intervals.

    Example:
        >>> sure = calibration([2.0, 2.0, 2.0, -2.0], beta=0.5493061443340549)  # says 3/4, and is right in 3 of 4
        >>> round(sure.error, 6), round(sure.bins[0].confidence, 6), sure.bins[0].accuracy.value
        (0.0, 0.75, 0.75)
    """
    array = np.asarray(differences, dtype=np.float64)
    sure = 1 / (1 + np.exp(-beta * abs(array)))
    right = _outcomes(array)
    places = np.digitize(sure, np.linspace(0.5, 1, bins + 1)[1:-1])
    found = [
        CalibrationBin(
            float(sure[places == place].mean()),
            wilson(float(right[places == place].sum()), int((places == place).sum()), confidence),
        )
        for place in np.unique(places)
    ]
    error = sum(abs(one.confidence - one.accuracy.value) * one.accuracy.count for one in found) / array.size
    return Calibration(float(error), float(sure.mean() - right.mean()), found)


def margins(differences: ArrayLike) -> Margins:
    """How far apart the rewards are.

    Example:
        >>> margins([0.5, 1.5, -1.0, 3.0]).above_one
        0.5
    """
    array = np.asarray(differences, dtype=np.float64)
    low, median, high = (float(value) for value in np.quantile(array, [0.1, 0.5, 0.9]))
    return Margins(float(array.mean()), median, low, high, float((array > 1).mean()))


# ---------------------------------------------------------------------- correlation with length


def correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    """Pearson's correlation; None where one of the two does not vary.

    The mean of correlations within batches is another number: it forgets how batches differ from each other.

    Example:
        >>> correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), correlation([1.0, 1.0], [2.0, 4.0])
        (1.0, None)
    """
    centered = [_centered(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    if any(values is None for values in centered):
        return None
    x, y = (values for values in centered if values is not None)
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _centered(values: Array) -> Array | None:
    """Distances from the mean, the largest of them 1; None for a constant, whose rounding errors are not variance."""
    if np.ptp(values) == 0:
        return None
    distances = values - values.mean()
    largest = abs(distances).max()
    return None if largest == 0 else distances / largest


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, where equal values share the mean of theirs.

    Example:
        >>> rank_correlation([1.0, 2.0, 9.0], [0.1, 0.2, 0.3])
        1.0
    """
    return correlation(_ranks(one), _ranks(other))


def _ranks(values: ArrayLike) -> Array:
    """Ranks from 1 on; equal values share the mean of theirs.

    Example:
        >>> _ranks([5.0, 7.0, 5.0]).tolist()
        [1.5, 3.0, 1.5]
    """
    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]
