"""How sure a shift is: studentised bootstraps of means, of their differences and of ratios of them.

Readings are skewed (skewness 5 … 7 near the data) and an estimator may read a dozen states, so Student's quantiles do not hold.
The quantiles are those of |T*|, T* = (mean* - mean)/se*, over resamples (the symmetric bootstrap-t: P. Hall, The Bootstrap and
Edgeworth Expansion, 1992, §3.6). Where two groups are compared, both are resampled from the residuals of both: they are readings
of one estimator at one level, and the few rows of one borrow the shape of the many of the other [own]. Rows are resampled
whole, so that the largest |T*| over levels and estimators has its own quantile, which holds the error rate of all together.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from noiseshift.estimators.instrument import Array, readable

RESAMPLES = 2000
NUMBERS = 2_000_000
"""Most weights held at a time."""

SLOPES = 104_729
"""Seed of the slopes' resamples: apart from the readings'."""


class RunTest(NamedTuple):
    """Is anything there at all? All NaN where nothing can be read.

    Attributes:
        statistic: the largest |T| over all levels.
        p: the share of resamples without a shift that reach the statistic.
        critical: the quantile that the statistic must exceed, of 95 % by default.
    """

    statistic: float
    p: float
    critical: float

    @property
    def significant(self) -> bool:
        """Whether the statistic exceeds its critical value."""
        return self.statistic > self.critical


@dataclass(frozen=True, eq=False)
class Error:
    """What is known of the error of C estimates.

    Attributes:
        variance: (C,) squared standard errors.
        draws: (R, C) errors of resampled estimates; equal rows are resamples of the same states.
        variances: (R, C) their own squared standard errors.
    """

    variance: Array
    draws: Array
    variances: Array

    def __add__(self, other: Error) -> Error:
        """Of the sum of two independent estimates."""
        return Error(self.variance + other.variance, self.draws + other.draws, self.variances + other.variances)

    def scaled(self, factor: Array) -> Error:
        """Of the estimates times a factor (C,)."""
        return Error(factor**2 * self.variance, factor * self.draws, factor**2 * self.variances)

    def at(self, columns: Array) -> Error:
        """Of some of the estimates."""
        return Error(self.variance[columns], self.draws[:, columns], self.variances[:, columns])

    def studentised(self) -> Array:
        """(R, C) |T*|; a resample without spread says nothing against any value, unless nothing ever varies."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(self.draws) / np.sqrt(self.variances)
        return np.where(self.variances > 0, ratio, np.where(self.draws == 0, 0.0, np.inf))

    def critical(self, level: float = 0.95) -> Array:
        """(C,) how many standard errors the interval of each estimate reaches to either side."""
        return _quantile(self.studentised(), level)


def mean_error(rows: Array, seed: int = 0) -> Error:
    """Of the column means of rows (n, C).

    Args:
        rows: (n, C), n ≥ 2.
        seed: rows of one number n and one seed are resampled alike.
    """
    return Error(_variance(rows), *_resampled(_centred(rows), len(rows), seed))


def difference_error(first: Array, second: Array, seed: int = 0) -> Error:
    """Of mean(first) - mean(second) over rows (n, C) and (m, C).

    Args:
        first: (n, C).
        second: (m, C), of other states: the two are independent.
        seed: of the resamples.
    """
    pool = np.concatenate([_residuals(first), _residuals(second)])
    (a, a_variance), (b, b_variance) = (
        _resampled(_centred(pool), len(rows), seed + 7919 * k) for k, rows in enumerate((first, second))
    )
    return Error(_variance(first) + _variance(second), a - b, a_variance + b_variance)


def _residuals(rows: Array) -> Array:
    """Rows minus their mean, at the spread of the states and not of the sample."""
    return _centred(rows) * np.sqrt(len(rows) / max(1, len(rows) - 1))


def _centred(rows: Array) -> Array:
    """Rows minus their mean, without what rounding leaves of rows that are all one."""
    residuals = rows - rows.mean(0)
    return np.where(np.abs(residuals) < 1e-13, 0.0, residuals)


def _variance(rows: Array) -> Array:
    return (_centred(rows) ** 2).sum(0) / (len(rows) - 1) / len(rows)


def _resampled(residuals: Array, count: int, seed: int) -> tuple[Array, Array]:
    """(R, C) means of `count` of the residuals (N, C), drawn with replacement, and their squared standard errors."""
    both = np.concatenate([residuals, residuals**2], axis=1)
    moments = np.concatenate([weights @ both for weights in _weights(count, len(residuals), seed)])
    mean, square = np.split(moments, 2, axis=1)
    return mean, np.maximum(square - mean**2, 0) / max(1, count - 1)


def _weights(count: int, total: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Array]:
    """Blocks (B, total) of bootstrap weights, summing to 1, of `count` draws among `total` rows."""
    size = max(1, NUMBERS // max(count, total))
    for block, start in enumerate(range(0, resamples, size)):
        make = _block if resamples <= size else _block.__wrapped__
        yield make(count, total, min(size, resamples - start), seed, block)


@functools.lru_cache(maxsize=6)
def _block(count: int, total: int, rows: int, seed: int, block: int) -> Array:
    """Kept, where it is small: estimators that read as many states share their resamples, and so do columns of a table."""
    chosen = np.random.default_rng([seed, block]).integers(0, total, (rows, count))
    places = (chosen + total * np.arange(rows)[:, None]).ravel()
    return np.bincount(places, minlength=rows * total).reshape(rows, total) / count


def resampled_means(values: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """(R, K) means over bootstrap resamples of the rows of values (N, K).

    Args:
        values: (N, K).
        rng: gives the seed.
        resamples: R.
    """
    seed = int(rng.integers(2**31))
    return np.concatenate([weights @ values for weights in _weights(len(values), len(values), seed, resamples)])


def divided(values: Array, slopes: Array) -> Array:
    """values / slopes; NaN where a slope is 0.

    Args:
        values: of any shape.
        slopes: broadcast with them.
    """
    return values / np.where(slopes == 0, np.nan, slopes)


@dataclass(frozen=True, eq=False)
class Ratio:
    """Shifts: a difference of readings over the slope of the reading, both with their errors.

    Attributes:
        readings: (K,) differences of mean readings.
        slope: (K,) mean slopes.
        error: Of the differences.
        slope_error: Of the slopes.
    """

    readings: Array
    slope: Array
    error: Error
    slope_error: Error

    @classmethod
    def of_difference(cls, first: Array, second: Array, slopes: Array, seed: int = 0) -> Ratio:
        """Of mean(first) - mean(second), rows (n, K) and (m, K), over the mean of slopes (s, K).

        Args:
            first: (n, K) readings of the sampler's states.
            second: (m, K) readings of real states.
            slopes: (s, K) of the calibration.
            seed: of the resamples.
        """
        error = difference_error(first, second, seed)
        return cls(first.mean(0) - second.mean(0), slopes.mean(0), error, mean_error(slopes, seed=SLOPES))

    @classmethod
    def of_mean(cls, rows: Array, slopes: Array) -> Ratio:
        """Of the mean of rows (n, K) over the mean of slopes (s, K).

        Args:
            rows: (n, K) differences, state by state.
            slopes: (s, K) of the calibration.
        """
        return cls(rows.mean(0), slopes.mean(0), mean_error(rows), mean_error(slopes, seed=SLOPES))

    @property
    def value(self) -> Array:
        """(K,) the shifts; NaN where the slope is 0."""
        return divided(self.readings, self.slope)

    def readable(self, times: Array) -> Array:
        """(K,) whether each is a shift at all: its slope lies within 0.5 … 2 and is significant, and its interval holds a shift
        that leads to a level. An estimator that extrapolates read δ = -1.36 at t = .91: there is no level -.45. One whose slope of
        .65 was not significant read other means for samples than for real states, which is not to say another level.

        Args:
            times: (K,) conditioning times, from which the shifts lead.
        """
        found = readable(self.slope)
        among = np.flatnonzero(found)
        if len(among):
            found[among] = self.at(among).slope_known()
        ends = times + self.value
        beyond = np.flatnonzero(found & ((ends < 0) | (ends > 1)))
        if len(beyond):  # else the intervals, which hold the values, need not be known
            low, high = self.at(beyond).interval()
            found[beyond] = (times[beyond] + high >= 0) & (times[beyond] + low <= 1)
        return found

    def at(self, levels: Array) -> Ratio:
        """At some of the levels."""
        return Ratio(self.readings[levels], self.slope[levels], self.error.at(levels), self.slope_error.at(levels))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """(K,) ends of each level's own interval."""
        return self._fieller(self._critical(level))

    def floor(self, level: float = 0.95) -> Array:
        """(K,) the least |shift| whose interval excludes 0."""
        with np.errstate(invalid="ignore"):
            return divided(self._critical(level) * np.sqrt(self.error.variance), np.abs(self.slope))

    def band(self, level: float, levels: Array) -> tuple[Array, Array]:
        """(K,) ends of the band that holds the shifts at all of these levels at once. 0 is outside of it somewhere exactly
        where `test` is significant.

        Args:
            level: the chance that the band holds all of them, such as 0.95.
            levels: (K,) whether each takes part.
        """
        return self.within(self.at(levels).test(level).critical)

    def within(self, critical: float) -> tuple[Array, Array]:
        """(K,) ends of the intervals that reach this many standard errors to either side."""
        return self._fieller(np.full(len(self.slope), critical))

    def test(self, level: float = 0.95) -> RunTest:
        """That all shifts are 0. The slopes do not matter to it."""
        return largest([self.readings], [self.error], level)

    def _critical(self, level: float) -> Array:
        """(K,) quantiles of |T*| of the readings minus the shift times the slope, which are 0 on average."""
        return (self.error + self.slope_error.scaled(self.value)).critical(level)

    def slope_known(self, level: float = 0.95) -> Array:
        """(K,) whether each slope is significant, so that the shift's interval has ends."""
        critical = self._critical(level)
        few = np.isinf(critical)  # too few states to know: it is said of the readings, whatever the slope
        with np.errstate(invalid="ignore"):
            known: Array = few | (self.slope**2 > critical**2 * self.slope_error.variance)
        return known

    def _fieller(self, critical: Array) -> tuple[Array, Array]:
        """Fieller's ends of the ratio: all r at which readings - r slope is within `critical` standard errors of 0.

        0 is outside exactly where the readings exceed `critical` of their own standard errors, whatever is known of the
        slope. Infinite where the slope itself is not significant. (E. C. Fieller, J. R. Stat. Soc. B 16, 1954.)
        """
        with np.errstate(divide="ignore", invalid="ignore"):  # an infinite critical value, a slope of 0
            spread, slope_spread = critical**2 * self.error.variance, critical**2 * self.slope_error.variance
            lead = self.slope**2 - slope_spread
            inside = self.slope**2 * spread + self.readings**2 * slope_spread - spread * slope_spread
            centre = self.readings * self.slope / lead
            reach = np.sqrt(np.maximum(inside, 0)) / lead
        known = lead > 0
        return np.where(known, centre - reach, -np.inf), np.where(known, centre + reach, np.inf)


def largest(values: Sequence[Array], errors: Sequence[Error], level: float = 0.95) -> RunTest:
    """The test that all of these estimates are 0, by the largest |T|; estimates (C,) with their errors, whose equal draws
    are resamples of the same states.

    Args:
        values: estimates, (C,) each.
        errors: theirs, in that order.
        level: 1 - the error rate at which `critical` is given.

    Returns:
        The statistic, its p and the critical value; NaN where there is no estimate.
    """
    if not sum(len(value) for value in values):
        return RunTest(float("nan"), float("nan"), float("nan"))
    found = [_statistics(value, error) for value, error in zip(values, errors, strict=True)]
    statistic = max(float(each.max()) for each in found if len(each))
    draws = np.concatenate([error.studentised() for error in errors], axis=1).max(1)
    p = (1 + int((draws >= statistic).sum())) / (1 + len(draws))
    return RunTest(statistic, p, float(_quantile(draws[:, None], level)[0]))


def _statistics(value: Array, error: Error) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.abs(value) / np.sqrt(error.variance))


def _quantile(draws: Array, level: float) -> Array:
    """(C,) the least draw that `level` of the draws, and the estimate itself as one more, do not exceed."""
    rank = min(len(draws), int(np.ceil(level * (len(draws) + 1)))) - 1
    return np.partition(draws, rank, axis=0)[rank]
