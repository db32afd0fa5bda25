"""How far a distance between samples may be from the distance of what they were drawn from: 95 % intervals.

FD by a jackknife over groups of either side (`jackknifing`); KID by the first-order (Hoeffding)
error of its U-statistic; the Inception score by a jackknife over images; precision and recall by the binomial error of what
is counted and a jackknife over the set whose balls are counted in. `benchmarks/distance_coverage.py` shows how often each
holds the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from noiseshift.evaluation.distances import NEIGHBOURS, entropy, inception_score
from noiseshift.evaluation.kernel import kernel_sums

Array = np.ndarray

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
    error, freedom = standard_error(parts)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Change(value, value - half, value + half)


def standard_error(parts: tuple[Array, ...]) -> tuple[float, float]:
    """The standard error of the sum of the parts' means, and its degrees of freedom."""
    variances = [float(part.var(ddof=1)) / len(part) for part in parts]
    return float(np.sqrt(sum(variances))), _freedom(variances, [len(part) - 1 for part in parts])


def _freedom(variances: list[float], freedom: list[int]) -> float:
    """Of a sum of variances that are known to so many degrees of freedom."""
    whole = sum(variances)
    return whole**2 / sum(v**2 / f for v, f in zip(variances, freedom, strict=True)) if whole else float(sum(freedom))


def kernel_change(a: Array, b: Array, *, within: Array | None = None) -> Change:
    """KID with its interval.

    The first-order term of the U-statistic (Hoeffding, Ann. Math. Statist. 19, 1948), from either side. Where both are drawn
    from one distribution that term vanishes; what is estimated for it is then twice the error that is left.

    Args:
        a: (n, d) features.
        b: (m, d) features.
        within: (m,) `kernel.sums_within` of b, where they are known.

    Returns:
        KID and its 95 % interval.
    """
    sums = kernel_sums(a, b, within=within)
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
