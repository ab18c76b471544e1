"""Numbers with their uncertainty: means, win rates, distances from a base, fluency, gaps recovered.

Arrays in, numbers out. Shapes use the legend `samples` (replies, one a prompt), `length` (their tokens), `seeds` and
`prompts` (every prompt under every seed).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
_CHUNK = 2**22  # numbers of a resample that are held at once


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: of the values, or another statistic of them.
        low: where the interval starts.
        high: where it ends.
        count: how many values there were.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """What stands behind the plus-minus sign."""
        return (self.high - self.low) / 2


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of independent values with its confidence interval by Student's t.

    Args:
        values: `(samples,)`.
        confidence: probability that the interval covers the expectation.

    Raises:
        ValueError: fewer than two values, or one that is not finite.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> round(interval.mean, 2), round(interval.low, 2), round(interval.high, 2)
        (3.0, 1.04, 4.96)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(f"`values` must be at least two finite numbers, got {array.size} in shape {array.shape}.")
    mean = float(array.mean())
    error = float(array.std(ddof=1)) / array.size**0.5
    margin = t_quantile(0.5 + confidence / 2, array.size - 1) * error
    return Interval(mean, mean - margin, mean + margin, array.size)


def bootstrap_interval(
    *values: ArrayLike,
    statistic: Callable[..., Any] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A statistic with its percentile bootstrap interval over prompts and seeds.

    Prompts and seeds are drawn with replacement, each on its own, and every drawn prompt is taken under every drawn
    seed (the pigeonhole bootstrap: Owen 2007, Annals of Applied Statistics 1:386). So the
    interval speaks of other prompts *and* of other seeds. What differs neither by prompt nor by seed but by reply is
    counted up to three times, on the safe side; few seeds, on the other hand, say little: where seeds alone differ, the
    interval of 5 covers about 83 % instead of 95 %. To speak of these very seeds pass their mean,
    `values.mean(0)`.

    Paired systems need no more than the same prompts and seeds: pass `one - other`, or both with a statistic.

    Args:
        *values: `(seeds, prompts)` or `(prompts,)`, one array or several that are resampled together. NaN: no value.
        statistic: of the arrays, each `(resamples, seeds, prompts)`, to `(resamples,)`. None: the mean of the first,
            without NaN.
        confidence: probability that the interval covers the expectation.
        resamples: how many are drawn.
        seed: of drawing.

    Returns:
        the statistic of the values as `mean`, with quantiles of the resamples around it; `count` replies.

    Raises:
        ValueError: shapes differ, there are fewer than two prompts, or the statistic is not finite.

    Example:
        >>> interval = bootstrap_interval([[1.0, 2.0, 3.0, 4.0, 5.0]])
        >>> interval.mean, round(interval.low, 1), round(interval.high, 1)
        (3.0, 1.8, 4.2)
    """
    arrays = _grids(values)
    of = _mean if statistic is None else statistic
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"`confidence` must be in (0, 1) and `resamples` at least 1, got {confidence}, {resamples}.")
    estimate = float(np.asarray(of(*(array[None] for array in arrays)))[0])
    if not np.isfinite(estimate):
        raise ValueError(f"The statistic of `values` must be finite, got {estimate}.")
    drawn = [of(*resampled) for resampled in _resampled(arrays, resamples, seed)]
    # a resample can lack what the statistic needs (a verdict, a gap), however rarely; it then says nothing
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), int(np.isfinite(arrays[0]).sum()))


def _grids(values: Sequence[ArrayLike]) -> list[Array]:
    """Arrays as `(seeds, prompts)`, all of one shape."""
    arrays = [np.atleast_2d(np.asarray(value, dtype=np.float64)) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2 or arrays[0].shape[1] < 2:
        found = ", ".join(str(np.shape(value)) for value in values) or "none"
        raise ValueError(f"`values` must have one shape (seeds, prompts), with two prompts at least; got {found}.")
    return arrays


def _resampled(arrays: Sequence[Array], resamples: int, seed: int) -> Iterator[list[Array]]:
    """The arrays, each `(some resamples, seeds, prompts)`, until there are as many as wanted."""
    random = np.random.default_rng(seed)
    seeds, prompts = arrays[0].shape
    step = max(_CHUNK // (seeds * prompts), 1)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        rows = random.integers(seeds, size=(count, seeds, 1))
        columns = random.integers(prompts, size=(count, 1, prompts))
        yield [array[rows, columns] for array in arrays]


def _mean(values: Array, *others: Array) -> Array:
    """Mean over seeds and prompts of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum((-2, -1))
    return np.divide(
        np.where(known, values, 0.0).sum((-2, -1)), count, out=np.full(len(values), np.nan), where=count > 0
    )


@dataclass(frozen=True)
class WinRates:
    """How often one system beats another, each share with its bootstrap interval.

    Attributes:
        win: share of pairs that the first system wins.
        tie: share that neither wins.
        loss: share that the other wins.
        win_rate: wins and half of the ties; 0.5 where neither system is better.
        failed: pairs without a verdict, which are in no share.
    """

    win: Interval
    tie: Interval
    loss: Interval
    win_rate: Interval
    failed: int


def compare(values: ArrayLike, others: ArrayLike, tolerance: float = 0.0) -> Array:
    """Who has the higher score, pair by pair.

    Args:
        values: scores of one system, of any shape.
        others: of another one on the same prompts.
        tolerance: scores no further apart are a tie.

    Returns:
        1 where `values` is higher, -1 where `others` is, 0 for ties, NaN where a score is NaN.

    Example:
        >>> compare([3.0, 1.0, 2.0], [1.0, 2.0, 2.0]).tolist()
        [1.0, -1.0, 0.0]
    """
    if np.shape(values) != np.shape(others) or not tolerance >= 0:
        raise ValueError(
            "`values` and `others` must have one shape and `tolerance` be at least 0, got "
            f"{np.shape(values)}, {np.shape(others)} and {tolerance}."
        )
    difference = np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    outcome = np.where(np.abs(difference) <= tolerance, 0.0, np.sign(difference))
    return np.where(np.isnan(difference), np.nan, outcome)


def win_rates(outcomes: ArrayLike, **options: Any) -> WinRates:
    """Shares of wins, ties and losses.

    Args:
        outcomes: `(seeds, prompts)` or `(prompts,)`: 1 won, 0 tied, -1 lost, NaN without a verdict; as [`compare`] and
            [`Verdict.outcome`] say it.
        **options: of [`bootstrap_interval`].

    Raises:
        ValueError: another number is among them, or there is no verdict at all.

    Example:
        >>> rates = win_rates([1, 1, 0, -1])
        >>> rates.win.mean, rates.tie.mean, rates.loss.mean, rates.win_rate.mean
        (0.5, 0.25, 0.25, 0.625)
    """
    (array,) = _grids([outcomes])
    known = ~np.isnan(array)
    if not np.isin(array[known], (-1, 0, 1)).all() or not known.any():
        raise ValueError(
            "`outcomes` must be 1 (won), 0 (tied), -1 (lost) or NaN (no verdict), with one verdict at least."
        )
    shares = (np.where(known, share, np.nan) for share in (array == 1, array == 0, array == -1, (array + 1) / 2))
    return WinRates(*(bootstrap_interval(share, **options) for share in shares), failed=int((~known).sum()))


def gap_recovered(values: ArrayLike, floor: ArrayLike, ceiling: ArrayLike, **options: Any) -> Interval:
    """How much of the way from one system to a better one a third system goes, 1 being all of it.

    As in weak-to-strong generalisation (arXiv 2312.09390, "performance gap recovered"): `(values - floor) / (ceiling -
    floor)`, of the means. Where resamples close the gap the interval grows wide, as it should.

    Args:
        values: `(seeds, prompts)` or `(prompts,)`, scores of the system (a strong base with a weak reward model).
        floor: of the lower end (the strong base), on the same prompts and seeds.
        ceiling: of the upper end (the strong model trained).
        **options: of [`bootstrap_interval`].

    Raises:
        ValueError: shapes differ, or there is no gap.

    Example:
        >>> gap_recovered([2.0, 4.0], floor=[1.0, 1.0], ceiling=[3.0, 5.0]).mean
        0.6666666666666666
    """
    arrays = _grids([values, floor, ceiling])
    gap = float(_mean(arrays[2][None])[0] - _mean(arrays[1][None])[0])
    if not gap:
        raise ValueError("`ceiling` and `floor` have the same mean: there is no gap to recover.")

    def share(values: Array, floor: Array, ceiling: Array) -> Array:
        low, high = _mean(floor), _mean(ceiling)
        gaps = np.where(high == low, np.nan, high - low)
        return (_mean(values) - low) / gaps

    return bootstrap_interval(*arrays, statistic=share, **options)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t-distribution, without scipy.

    The expansion in 1/degrees around the normal quantile (Abramowitz and Stegun, 26.7.5). At 97.5 % it is within 0.2 %
    from 3 degrees of freedom on, and too small for 1 and 2.

    Example:
        >>> round(t_quantile(0.975, 9), 3), round(t_quantile(0.975, 10**6), 3)
        (2.262, 1.96)
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def log_ratios(policy_logprobs: ArrayLike, base_logprobs: ArrayLike, mask: ArrayLike | None = None) -> Array:
    """`log pi(y|x) - log pi_base(y|x)` of every reply.

    For replies sampled from `pi`, their mean is an unbiased Monte-Carlo estimate of KL(pi || pi_base) per reply; a
    single one may be negative.

    Args:
        policy_logprobs: `(samples, length)`, log-probabilities of the replies' tokens in nats, under the policy that
            they were sampled from.
        base_logprobs: likewise under the base.
        mask: `(samples, length)`, 1 for tokens of the reply and 0 for padding. None: all count.

    Returns:
        `(samples,)` in nats.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> log_ratios([[-1.0, -1.0]], [[-2.0, -1.5]], mask=[[1, 0]]).tolist()
        [1.0]
    """
    policy = np.asarray(policy_logprobs, dtype=np.float64)
    base = np.asarray(base_logprobs, dtype=np.float64)
    counted = np.ones(policy.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if policy.ndim != 2 or not policy.shape == base.shape == counted.shape:
        raise ValueError(
            "`policy_logprobs`, `base_logprobs` and `mask` must have one shape (samples, length), got "
            f"{policy.shape}, {base.shape} and {counted.shape}."
        )
    # padding may be -inf on both sides, whose difference is no number
    return (np.where(counted, policy, 0.0) - np.where(counted, base, 0.0)).sum(-1)


def exact_kl(p_logprobs: ArrayLike, q_logprobs: ArrayLike) -> Array:
    """KL(p || q) of distributions that are known in full, in nats.

    Args:
        p_logprobs: `(..., outcomes)`, log-probabilities in nats; -inf: impossible.
        q_logprobs: the same shape.

    Returns:
        `(...)`; inf where p allows what q does not.

    Raises:
        ValueError: shapes differ, or probabilities do not add up to 1.

    Example:
        >>> import math
        >>> float(exact_kl([math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)]).round(4))
        0.1438
    """
    p, q = (np.asarray(logprobs, dtype=np.float64) for logprobs in (p_logprobs, q_logprobs))
    if p.shape != q.shape or not p.ndim:
        raise ValueError(
            f"`p_logprobs` and `q_logprobs` must have one shape (..., outcomes), got {p.shape}, {q.shape}."
        )
    for name, logprobs in (("p_logprobs", p), ("q_logprobs", q)):
        total = np.exp(logprobs).sum(-1)
        if not np.allclose(total, 1, atol=1e-4):
            raise ValueError(
                f"Probabilities of `{name}` must add up to 1, got {float(total.ravel()[0])}: normalise them."
            )
    probabilities = np.exp(p)
    possible = probabilities > 0  # where p is 0 it adds nothing, whatever q is
    return np.where(possible, probabilities * (np.where(possible, p, 0.0) - np.where(possible, q, 0.0)), 0.0).sum(-1)


def perplexity(logprobs: ArrayLike, mask: ArrayLike | None = None) -> float:
    """`exp` of the mean negative log-probability of a token, over all tokens of all replies.

    Args:
        logprobs: `(samples, length)` in nats, under the model whose perplexity it is.
        mask: `(samples, length)`, 1 for tokens of the reply. None: all count.

    Raises:
        ValueError: shapes differ, or there is no token.

    Example:
        >>> round(perplexity([[-1.0, -3.0, 0.0]], mask=[[1, 1, 0]]), 4)  # exp(2)
        7.3891
    """
    array = np.asarray(logprobs, dtype=np.float64)
    counted = np.ones(array.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if array.shape != counted.shape or not counted.any():
        raise ValueError(
            f"`logprobs` and `mask` must have one shape with a token at least, got {array.shape} and {counted.shape}."
        )
    return float(np.exp(-array[counted].mean()))


def distinct_n(texts: Iterable[str | Sequence[Any]], n: int) -> float:
    """Share of different n-grams among all n-grams of all texts (distinct-n, Li et al., arXiv 1510.03055).

    It falls with the amount of text, so compare equally many texts of similar length.

    Args:
        texts: strings, whose words are separated by blanks; or lists of words or ids.
        n: words in a row.

    Raises:
        ValueError: `n` is below 1, or no text has as many words.

    Example:
        >>> distinct_n(["a b a b", "a b"], 2)  # a b, b a, a b, a b
        0.5
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    grams: Counter[tuple] = Counter()
    for text in texts:
        words = text.split() if isinstance(text, str) else list(text)
        grams.update(zip(*(words[start:] for start in range(n)), strict=False))
    if not grams:
        raise ValueError(f"No text has {n} words.")
    return len(grams) / grams.total()
