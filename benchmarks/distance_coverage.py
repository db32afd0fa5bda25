"""How often the 95 % intervals of distances hold the truth, where it is known.

    python benchmarks/distance_coverage.py                     # about ten minutes on one core
    python benchmarks/distance_coverage.py --metric FD --samples 1000

Samples and real images are Gaussian features. FD's and KID's truths have closed forms, the Inception score's is that of two
million images, precision's and recall's the mean over draws of both sets of the sizes given. A line a case: how often the
interval holds the truth (of --repeats; chance moves 300 of them by 2.5 %), its mean width, and beside it the same for what
was printed before: a jackknife with the reference taken as exact, KID's spread over subsets, and the binomial error alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import numpy as np

from noiseshift.evaluation import (
    Change,
    Features,
    Moments,
    coverage_change,
    frechet_distance,
    inception_score,
    jackknife,
    kernel_change,
    kernel_distance,
    precision_recall,
    score_change,
    student,
)

Array = np.ndarray
Case = tuple[str, float, Callable[[], tuple[Change, Change]]]
"""A name, the truth, and one draw: the interval now and the one before."""

WIDTH = 16
DISTRIBUTIONS = {
    "equal": (np.zeros(WIDTH), np.ones(WIDTH)),
    "near": (np.full(WIDTH, 0.1), np.linspace(0.9, 1.1, WIDTH)),
    "far": (np.full(WIDTH, 0.4), np.linspace(0.6, 1.4, WIDTH)),
}
"""Means and standard deviations of the samples' features; real ones are N(0, 1)."""


def drawn(distribution: tuple[Array, Array], n: int, rng: np.random.Generator) -> Array:
    return distribution[0] + distribution[1] * rng.standard_normal((n, len(distribution[0])))


def frechet_cases(n: int, rng: np.random.Generator) -> Iterator[Case]:
    real = DISTRIBUTIONS["equal"]
    exact = Moments(np.zeros(WIDTH), np.eye(WIDTH))
    for name, distribution in DISTRIBUTIONS.items():
        truth = frechet_distance(Moments(distribution[0], np.diag(distribution[1] ** 2)), exact)

        def to_images(distribution: tuple[Array, Array] = distribution) -> tuple[Change, Change]:
            found = jackknife(Features("x", drawn(distribution, n, rng)), Features("x", drawn(real, n, rng)))
            return found.change(), student(found.samples)

        def to_moments(distribution: tuple[Array, Array] = distribution) -> tuple[Change, Change]:
            found = jackknife(Features("x", drawn(distribution, n, rng)), exact)
            return found.change(), student(found.samples)

        yield f"FD to {n} images, {name}", truth, to_images
        yield f"FD to exact moments, {name}", truth, to_moments
    for width in (64, 128):
        distribution = (np.full(width, 0.1), np.linspace(0.7, 1.3, width))
        exact = Moments(np.zeros(width), np.eye(width))
        truth = frechet_distance(Moments(distribution[0], np.diag(distribution[1] ** 2)), exact)

        def wide(
            distribution: tuple[Array, Array] = distribution, width: int = width, exact: Moments = exact
        ) -> tuple[Change, Change]:
            found = jackknife(Features("x", drawn(distribution, 4 * width, rng)), exact)
            return found.change(), student(found.samples)

        yield f"FD of {4 * width} samples, {width} features", truth, wide


def kernel_cases(n: int, rng: np.random.Generator) -> Iterator[Case]:
    for name, distribution in DISTRIBUTIONS.items():
        real = DISTRIBUTIONS["equal"]
        truth = _kernel(distribution, distribution) + _kernel(real, real) - 2 * _kernel(distribution, real)

        def draw(distribution: tuple[Array, Array] = distribution) -> tuple[Change, Change]:
            a, b = drawn(distribution, n, rng), drawn(DISTRIBUTIONS["equal"], n, rng)
            parts = [kernel_distance(a[i], b[j]) for i, j in _subsets(n, rng)]
            half = 1.96 * np.std(parts, ddof=1) / np.sqrt(len(parts))
            middle = float(np.mean(parts))
            return kernel_change(a, b), Change(middle, middle - half, middle + half)

        yield f"KID, {name}", truth, draw


def _kernel(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """E (x·y/d + 1)³ of independent Gaussians with diagonal covariances: their moments up to the third, contracted."""
    (first, second, third), (mean, square, cube) = (_moments(*distribution) for distribution in (a, b))
    d = len(first)
    powers = (first @ mean / d, (second * square).sum() / d**2, (third * cube).sum() / d**3)
    return float(1 + 3 * powers[0] + 3 * powers[1] + powers[2])


def _moments(mean: Array, spread: Array) -> tuple[Array, Array, Array]:
    cov = np.diag(spread**2)
    mixed = np.einsum("i,jk->ijk", mean, cov)
    third = np.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.transpose(1, 0, 2) + mixed.transpose(2, 1, 0)
    return mean, cov + np.outer(mean, mean), third


def _subsets(n: int, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """What KID was averaged over before: subsets of 1,000 (8 here, not 50: it is slow)."""
    size = min(n, 1000)
    return [(rng.permutation(n)[:size], rng.permutation(n)[:size]) for _ in range(8)]


def coverage_cases(n: int, rng: np.random.Generator) -> Iterator[Case]:
    for name, distribution in DISTRIBUTIONS.items():
        sets = [
            (drawn(DISTRIBUTIONS["equal"], n, rng), drawn(distribution, n, rng))
            for _ in range(100 if n <= 1000 else 30)
        ]
        means = np.mean([[part.mean() for part in precision_recall(*pair)] for pair in sets], 0)
        for which, metric in enumerate(("precision", "recall")):

            def draw(distribution: tuple[Array, Array] = distribution, which: int = which) -> tuple[Change, Change]:
                pair = drawn(distribution, n, rng), drawn(DISTRIBUTIONS["equal"], n, rng)
                points, centres = pair if which == 0 else pair[::-1]
                found = coverage_change(points, centres)
                half = 1.96 * np.sqrt(found.value * (1 - found.value) / n)
                return found, Change(found.value, found.value - half, found.value + half)

            yield f"{metric}, {name}", float(means[which]), draw


def score_cases(n: int, rng: np.random.Generator) -> Iterator[Case]:
    for name, sure in (("sure", 6.0), ("unsure", 1.5)):

        def probs(count: int, sure: float = sure) -> Array:
            logits = rng.standard_normal((count, 10)) + sure * np.eye(10)[rng.integers(0, 10, count)]
            return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

        truth = inception_score(probs(2_000_000))

        def draw(probs: Callable[[int], Array] = probs) -> tuple[Change, Change]:
            part = probs(n)
            second = [inception_score(part[rng.integers(0, n, n)]) for _ in range(100)]
            return score_change(part), Change(np.nan, *np.quantile(second, [0.025, 0.975]))

        yield f"IS, {name}", truth, draw


METRICS = {"FD": frechet_cases, "KID": kernel_cases, "precision": coverage_cases, "IS": score_cases}


@click.command()
@click.option("--repeats", default=300, show_default=True)
@click.option("--samples", default=[1000, 5000], multiple=True, show_default=True)
@click.option("--metric", "metrics", default=list(METRICS), type=click.Choice(list(METRICS)), multiple=True)
def main(repeats: int, samples: tuple[int, ...], metrics: tuple[str, ...]) -> None:
    for metric in metrics:
        for n in samples:
            for name, truth, draw in METRICS[metric](n, np.random.default_rng(0)):
                pairs = [draw() for _ in range(repeats)]
                now, before = ([pair[k] for pair in pairs] for k in (0, 1))
                click.echo(
                    f"n = {n:5d}  {name:32s} {truth:9.5f}   now {_line(now, truth)}   before {_line(before, truth)}"
                )


def _line(found: list[Change], truth: float) -> str:
    held = np.mean([each.low <= truth <= each.high for each in found])
    return f"{100 * held:5.1f} %, width {np.mean([each.high - each.low for each in found]):.2g}"


if __name__ == "__main__":
    main()
