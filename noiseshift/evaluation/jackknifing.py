"""FD with its interval: a jackknife over groups of samples and of the reference, which also takes out the bias of order 1/n."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from noiseshift.evaluation.distances import frechet_distance
from noiseshift.evaluation.features import Array, Features, Moments
from noiseshift.evaluation.intervals import Change, standard_error, student

SMALL = 256
"""Feature length up to which FD's jackknife leaves out 100 groups of samples in turn; above it 20, since each needs a
decomposition."""

ENOUGH = 4
"""FD has an interval from this many samples a feature on: with fewer the covariance is too poor for a jackknife."""


@dataclass(frozen=True)
class Jackknife:
    """FD, and what becomes of it as groups of samples, or of the reference, are left out in turn.

    The pseudo-values' mean is FD without its bias of order 1/n; what is left is of order 1/n², which halves of the sets
    tell, roughly. Half of it is taken out, and the interval is wider by as much.

    Attributes:
        plain: FD of all, as everybody prints it.
        samples: (G,) pseudo-values over groups of samples.
        reference: (R,) pseudo-values over groups of the reference, minus `plain`; empty where it counts as exact.
        second: What halves say that the bias of order 1/n² is.
        enough: Whether there are enough samples for an interval.
    """

    plain: float
    samples: Array
    reference: Array
    second: float
    enough: bool

    def change(self) -> Change:
        """FD without its bias, and the interval; the plain one without an interval where `enough` is false."""
        if not self.enough:
            return Change(self.plain, float("nan"), float("nan"))
        return _widened(student(*_some(self.samples, self.reference)), self.second)

    def minus(self, other: Jackknife, *, paired: bool = True) -> Change:
        """This FD minus another to the same reference; `paired` where sample i of both has one seed and class.

        Args:
            other: of another run, against the same reference.
            paired: whether the two share their samples' noise and classes.
        """
        found = student(*self._difference(other, paired))
        if not (self.enough and other.enough):
            return Change(found.value, float("nan"), float("nan"))
        return _widened(found, self.second - other.second)

    def p(self, other: Jackknife, *, paired: bool = True) -> float:
        """Two-sided p of `minus`, 1 where that has no interval.

        Args:
            other: of another run, against the same reference.
            paired: as in `minus`.
        """
        parts = self._difference(other, paired)
        second = self.second - other.second
        error, freedom = standard_error(parts)
        if not (self.enough and other.enough) or error == 0:
            return 1.0
        beyond = abs(sum(float(part.mean()) for part in parts) + second / 2) - abs(second) / 2
        return float(2 * stats.t.sf(max(0.0, beyond) / error, freedom))

    def _difference(self, other: Jackknife, paired: bool) -> tuple[Array, ...]:
        samples = (self.samples - other.samples,) if paired else (self.samples, -other.samples)
        return (*samples, *_some(self.reference - other.reference))


def _some(*parts: Array) -> tuple[Array, ...]:
    return tuple(part for part in parts if len(part))


def _widened(change: Change, second: float) -> Change:
    middle = change.value + second / 2
    room = abs(second) / 2
    return Change(middle, change.low + second / 2 - room, change.high + second / 2 + room)


def jackknife(features: Features, reference: Features | Moments, *, seed: int = 0) -> Jackknife:
    """FD's pseudo-values, G·FD - (G - 1)·FD without group g (Quenouille, Biometrika 43, 1956; Tukey, 1958).

    Equal seeds and lengths leave out equal rows, so that differences of pseudo-values are paired.

    Args:
        features: of the samples.
        reference: of real images; where only the moments are known they count as exact.
        seed: of the groups.

    Returns:
        The jackknife, whose `change` is FD with its interval; of features in several blocks, the mean over blocks.

    Raises:
        ValueError: for features in blocks without those of real images.
    """
    if features.blocks > 1:
        return _over_blocks(features, reference, seed)
    width = features.values.shape[1]
    own = _Groups(features.values, seed)
    drawn = _Groups(reference.values, seed) if isinstance(reference, Features) else None
    other = reference if isinstance(reference, Moments) else drawn.whole if drawn else None
    assert other is not None
    plain = frechet_distance(own.whole, other)
    samples = _pseudo(plain, [frechet_distance(part, other) for part in own.without()])
    of_reference = np.zeros(0)
    least = len(features)
    others = [other, other]
    if drawn is not None:
        least = min(least, drawn.n)
        # FD is symmetric: the root of the samples' covariance serves all of these.
        of_reference = _pseudo(plain, [frechet_distance(part, own.whole) for part in drawn.without()]) - plain
        others = drawn.halves()
    first = float(samples.mean() + (of_reference.mean() if len(of_reference) else 0))
    halves = float(np.mean([frechet_distance(a, b) for a, b in zip(own.halves(), others, strict=True)]))
    return Jackknife(plain, samples, of_reference, first - (2 * plain - halves), least >= ENOUGH * width)


def _over_blocks(features: Features, reference: Features | Moments, seed: int) -> Jackknife:
    """The mean of the blocks' distances. Groups are the same in every block, so that what blocks share is in the interval."""
    if not isinstance(reference, Features):
        raise ValueError(f"{features.extractor} needs real images as --reference, not statistics")
    pairs = zip(features.parts(), reference.parts(), strict=True)
    found = [jackknife(own, real, seed=seed) for own, real in pairs]
    return Jackknife(
        float(np.mean([each.plain for each in found])),
        np.mean([each.samples for each in found], axis=0),
        np.mean([each.reference for each in found], axis=0),
        float(np.mean([each.second for each in found])),
        all(each.enough for each in found),
    )


def _pseudo(plain: float, left: list[float]) -> Array:
    return len(left) * plain - (len(left) - 1) * np.array(left)


class _Groups:
    """The scatter of groups of values, of which the moments of all, of all but a group, and of halves are sums.

    So the values, which are many, go through one product each; the moments are those of the rows themselves but for rounding.

    Args:
        values: (N, d) features.
        seed: of the groups: 100 where features are short, else 20.

    Attributes:
        n: how many values there are.
        whole: their moments.
    """

    def __init__(self, values: Array, seed: int):
        self.n = len(values)
        count = min(100 if values.shape[1] <= SMALL else 20, self.n)
        self.order = np.random.default_rng(seed).permutation(self.n)
        self.values = values
        self.mean = values.mean(0)
        self.parts = [self._part(rows) for rows in np.array_split(self.order, count)]
        self.total = sum(self.parts[1:], self.parts[0])
        self.whole = self._moments(self.total)

    def without(self) -> Iterator[Moments]:
        """Moments without each of the groups in turn."""
        for part in self.parts:
            yield self._moments(self.total - part)

    def halves(self) -> list[Moments]:
        """Moments of the first and of the second half of the shuffled values."""
        middle = -(-self.n // 2)
        kept = self.parts[: len(self.parts) // 2]
        first = sum(kept[1:], kept[0]) if kept else self._part(self.order[:0])
        # Groups end near the middle: the rows in between are few.
        first = first + self._part(self.order[first.n : middle]) - self._part(self.order[middle : first.n])
        return [self._moments(first), self._moments(self.total - first)]

    def _part(self, rows: Array) -> _Sums:
        centred = self.values[rows] - self.mean
        return _Sums(len(rows), centred.sum(0), centred.T @ centred)

    def _moments(self, part: _Sums) -> Moments:
        scatter = part.scatter - np.outer(part.sums, part.sums / max(1, part.n))
        return Moments(self.mean + part.sums / max(1, part.n), scatter / max(1, part.n - 1), part.n)


@dataclass(frozen=True)
class _Sums:
    """Of n centred values: their sum (d,) and the sum of their outer products (d, d)."""

    n: int
    sums: Array
    scatter: Array

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.n + other.n, self.sums + other.sums, self.scatter + other.scatter)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(self.n - other.n, self.sums - other.sums, self.scatter - other.scatter)


def paired_change(first: Features, second: Features, reference: Features | Moments, *, seed: int = 0) -> Change:
    """FD(first) - FD(second) without what a finite number of samples adds, the samples left out in pairs.

    Args:
        first: features of n samples.
        second: features of n others; sample i of both has one seed and class.
        reference: of real images.
        seed: of the groups that are left out.

    Returns:
        The difference and its 95 % interval.

    Raises:
        ValueError: the two are not of one length.
    """
    if len(first) != len(second):
        raise ValueError("paired sets need the same number of samples from the same seeds")
    return jackknife(first, reference, seed=seed).minus(jackknife(second, reference, seed=seed))
