"""How far a distance between samples may be from the distance of what they were drawn from: 95 % intervals.

FD by a jackknife over groups of either side, which also takes out the bias of order 1/n; KID by the first-order (Hoeffding)
error of its U-statistic; the Inception score by a jackknife over images; precision and recall by the binomial error of what
is counted and a jackknife over the set whose balls are counted in. `benchmarks/distance_coverage.py` shows how often each
holds the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from noiseshift.evaluation.distances import (
    NEIGHBOURS,
    entropy,
    frechet_distance,
    inception_score,
    kernel_sums,
)
from noiseshift.evaluation.features import Features, Moments

Array = np.ndarray

SMALL = 256
"""Feature length up to which FD's jackknife leaves out 100 groups of samples in turn; above it 20, since each needs a
decomposition."""

ENOUGH = 4
"""FD has an interval from this many samples a feature on: with fewer the covariance is too poor for a jackknife."""

GROUPS = 20
"""Groups of centres that are left out in turn for precision and recall."""


@dataclass(frozen=True)
class Change:
    """An estimate or a difference, and its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end; NaN where there is no interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def student(*parts: Array) -> Change:
    """The sum of the means of independent `parts`, (G,) values each, and its 95 % interval by Student's t.

    Degrees of freedom of several parts are Welch and Satterthwaite's.
    """
    value = float(sum(part.mean() for part in parts))
    error, freedom = _error(parts)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Change(value, value - half, value + half)


def _error(parts: tuple[Array, ...]) -> tuple[float, float]:
    """The standard error of the sum of the parts' means, and its degrees of freedom."""
    variances = [float(part.var(ddof=1)) / len(part) for part in parts]
    return float(np.sqrt(sum(variances))), _freedom(variances, [len(part) - 1 for part in parts])


def _freedom(variances: list[float], freedom: list[int]) -> float:
    """Of a sum of variances that are known to so many degrees of freedom."""
    whole = sum(variances)
    return whole**2 / sum(v**2 / f for v, f in zip(variances, freedom, strict=True)) if whole else float(sum(freedom))


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
        error, freedom = _error(parts)
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


def kernel_change(a: Array, b: Array) -> Change:
    """KID with its interval.

    The first-order term of the U-statistic (Hoeffding, Ann. Math. Statist. 19, 1948), from either side. Where both are drawn
    from one distribution that term vanishes; what is estimated for it is then twice the error that is left.

    Args:
        a: (n, d) features.
        b: (m, d) features.

    Returns:
        KID and its 95 % interval.
    """
    sums = kernel_sums(a, b)
    n, m = len(a), len(b)
    first = 2 * (sums.a_a / (n - 1) - sums.a_b / m)
    second = 2 * (sums.b_b / (m - 1) - sums.b_a / n)
    half = (student(first - first.mean(), second - second.mean())).high
    return Change(sums.distance, sums.distance - half, sums.distance + half)


def score_change(probs: Array) -> Change:
    """The Inception score of probs (N, K), without the bias of order 1/N, and its interval: each image left out in turn."""
    whole = inception_score(probs)
    n = len(probs)
    mean = probs.mean(0)
    own = entropy(probs)
    rest = np.concatenate(
        [entropy((n * mean - part).clip(0) / (n - 1)) for part in np.array_split(probs, -(-n // 4096))]
    )
    left = np.exp(rest - (own.sum() - own) / (n - 1))
    found = student(n * whole - (n - 1) * left)
    return Change(*(float(np.clip(end, 1, probs.shape[1])) for end in (found.value, found.low, found.high)))


def coverage_change(points: Array, centres: Array, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> Change:
    """The share of points that lie within reach of centres: precision of generated points among real centres, recall the other
    way round.

    The interval holds the mean over draws of both sets, of these sizes: counting error of the points, and a jackknife over
    groups of centres. Wilson's form keeps it within 0 … 1 (J. Am. Stat. Assoc. 22, 1927).

    Args:
        points: (N, d) features.
        centres: (M, d) features.
        neighbours: a centre reaches to its neighbour of this rank.
        seed: of the groups.

    Returns:
        The share and its 95 % interval.
    """
    inside = _left_out(torch.from_numpy(points), torch.from_numpy(centres), neighbours, seed)
    share = float(inside[0].mean())
    moved = inside[1:] - inside[1:].mean(0)
    counted = share * (1 - share) / (len(points) - 1)
    # How single points come and go with a group of centres is in the counting error already.
    single = moved.var(1, ddof=1) / len(points)
    drawn = max(0.0, float((1 - 1 / len(moved)) * (np.square(moved.mean(1)) - single).sum()))
    z = float(stats.t.ppf(0.975, _freedom([counted, drawn], [len(points) - 1, len(moved) - 1])))
    n = len(points) if counted == 0 else share * (1 - share) / (counted + drawn)
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Change(share, *(float(np.clip((middle + side * half) / (1 + z**2 / n), 0, 1)) for side in (-1, 1)))


def _left_out(points: Tensor, centres: Tensor, neighbours: int, seed: int) -> Array:
    """(1 + G, N) whether a point is within reach of any centre, of all of them and without each group."""
    if len(centres) <= 2 * neighbours:
        raise ValueError(f"{len(centres)} samples are too few for their {neighbours}rd neighbours: give at least 10")
    count = min(GROUPS, len(centres) // 2)
    group = torch.from_numpy(np.random.default_rng(seed).permutation(len(centres)) % count)
    # Row 0 with all centres, then one row per group: a centre that is left out reaches nowhere.
    radii = torch.cat([_radii(part, rows, centres, group, neighbours, count) for part, rows in _parts(centres)], 1)
    widest = radii.amax(0)
    inside = torch.zeros(count + 1, len(points), dtype=torch.bool)
    for part, rows in _parts(points):
        distances = torch.cdist(part, centres)
        row, centre = (distances <= widest).nonzero(as_tuple=True)
        reached = distances[row, centre] <= radii[:, centre]
        for out, hits in zip(inside, reached, strict=True):
            out[rows.start + row[hits]] = True
    return inside.double().numpy()


def _parts(values: Tensor) -> list[tuple[Tensor, slice]]:
    return [(values[i : i + 512], slice(i, min(i + 512, len(values)))) for i in range(0, len(values), 512)]


def _radii(part: Tensor, rows: slice, centres: Tensor, group: Tensor, neighbours: int, count: int) -> Tensor:
    """(1 + count, rows) distances to the neighbour of that rank, among all centres and without each group."""
    # A few more than are needed: those of one group go together.
    near, which = torch.cdist(part, centres).topk(min(len(centres), 3 * neighbours + 8), dim=1, largest=False)
    found = torch.empty(1 + count, len(part), dtype=near.dtype)
    found[0] = near[:, neighbours]
    for left in range(count):
        ranks = (group[which] != left).cumsum(1)
        place = (ranks == neighbours + 1).to(torch.uint8).argmax(1, keepdim=True)
        found[1 + left] = near.gather(1, place)[:, 0].where(group[rows] != left, -1.0)
    return found
