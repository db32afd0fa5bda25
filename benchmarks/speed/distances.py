"""Distances with their intervals, against torchmetrics and plain ways of the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from harness import Row, ratios

from noiseshift.evaluation.distances import precision_recall
from noiseshift.evaluation.features import Features
from noiseshift.evaluation.intervals import coverage_change, kernel_change
from noiseshift.evaluation.jackknifing import jackknife
from noiseshift.evaluation.kernel import sums_within


def rows(repeats: int) -> Iterator[Row]:
    repeats = max(2, repeats // 3)
    for d, n in ((512, 5_000), (1_024, 10_000), (2_048, 50_000)):
        yield _frechet(n, d, repeats)
    yield _kernel(3_000, 1_024, repeats)
    for n in (3_000, 10_000):
        yield _covered(n, 512, repeats)


def _features(n: int, d: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    return Features("toy", rng.standard_normal((n, d)) * (1 + np.arange(d) / d) + 0.05 * seed)


def _frechet(n: int, d: int, repeats: int) -> Row:
    """FD and its jackknife of 20 groups, against torchmetrics' formula on the moments, once and 20 times more."""
    from torchmetrics.image.fid import _compute_fid

    own, real = _features(n, d, 0), _features(n, d, 1).moments
    cov, other = torch.from_numpy(own.moments.cov), torch.from_numpy(real.cov)
    means = torch.from_numpy(own.moments.mean), torch.from_numpy(real.mean)

    def theirs() -> None:
        """One recomputation, of its moments and of the distance: 21 of them are what is compared."""
        _ = own.moments
        _compute_fid(means[0], cov, means[1], other)

    values = [21 / ratio for ratio in ratios(lambda: jackknife(own, real), theirs, repeats)]
    return Row(f"21 of torchmetrics' FD over FD with interval, d = {d}, n = {n:,}", values, 5, least=True)


def _kernel(n: int, d: int, repeats: int) -> Row:
    """KID of all pairs with its interval, against 100 subsets of 1,000 (torchmetrics' defaults) of the same kernel."""
    from torchmetrics.image.kid import poly_mmd

    a, b = _features(n, d, 0).values, _features(n, d, 1).values
    a_t, b_t, order = torch.from_numpy(a), torch.from_numpy(b), torch.Generator().manual_seed(0)

    def subsets() -> None:
        for _ in range(10):
            some, others = (part[torch.randperm(n, generator=order)[:1000]] for part in (a_t, b_t))
            poly_mmd(some, others)

    kept = sums_within(b)
    anew = 10 / np.median(ratios(lambda: kernel_change(a, b), subsets, repeats))
    values = [10 / ratio for ratio in ratios(lambda: kernel_change(a, b, within=kept), subsets, repeats)]
    return Row(
        f"100 subsets' KID over KID with interval, d = {d}, n = {n:,}",
        values,
        20,
        least=True,
        note=f"all pairs: smaller error; with the reference's own pairs, which are kept, {anew:.1f}",
    )


def _covered(n: int, d: int, repeats: int) -> Row:
    """Precision and recall, plain and with intervals, against brute force over all distances at once."""
    real, fake = _features(n, d, 0).values, _features(n, d, 1).values

    def brute() -> None:
        """As scikit-learn's brute force does it: radii within each set, then every point against every ball."""
        for points, centres in ((fake, real), (real, fake)):
            within, across = (_distances(x, centres) for x in (centres, points))
            radii = np.partition(within, 3, axis=1)[:, 3]
            (across <= radii).any(1)

    def ours() -> None:
        coverage_change(fake, real)
        coverage_change(real, fake)

    plain = np.median(ratios(lambda: precision_recall(real, fake), brute, repeats))
    note = f"without intervals {plain:.2f}×"
    return Row(
        f"precision and recall with intervals over brute force, n = {n:,}", ratios(ours, brute, repeats), 1, note=note
    )


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)
    return np.sqrt(squared.clip(0))
