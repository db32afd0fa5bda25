"""Coverage of FD's 95 % interval: the jackknife's against bootstraps of 200 draws, where the distance is known exactly.

python benchmarks/distance_intervals.py

Two Gaussians whose variances fall as 1/k, at a small, a large and no distance; a line a case and interval: how often it holds
the exact distance, how wide it is, and how far the plain distance lies above on average. About an hour on one core.
"""

from __future__ import annotations

import click
import numpy as np

from noiseshift.evaluation.distances import Features, Moments, frechet_distance, pseudo_values, student


def bootstraps(features: Features, exact: Moments, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The percentile interval and the basic one, its reflection at the estimate."""
    n, value = len(features), frechet_distance(features.moments, exact)
    rows = (rng.integers(0, n, n) for _ in range(200))
    draws = [frechet_distance(Features("", features.values[r]).moments, exact) for r in rows]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"percentile bootstrap": (low, high), "basic bootstrap": (2 * value - high, 2 * value - low)}


def intervals(features: Features, exact: Moments, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    found = student(pseudo_values(features, exact))
    return {"jackknife": (found.low, found.high)} | bootstraps(features, exact, rng)


def laws(width: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means and variances of what is sampled, by the name of its distance to N(0, 1/k)."""
    k = np.arange(1, width + 1)
    return {
        "small": (0.125 / np.sqrt(k), np.linspace(0.9, 1.15, width) / k),
        "large": (0.5 / np.sqrt(k), k**-1.2),
        "none": (np.zeros(width), 1 / k),
    }


@click.command()
@click.option("--repeats", default=100, show_default=True)
@click.option("--widths", default=[64, 128], multiple=True, show_default=True)
@click.option("--samples", default=[1000, 5000], multiple=True, show_default=True)
def main(repeats: int, widths: tuple[int, ...], samples: tuple[int, ...]) -> None:
    for width, n in ((d, n) for d in widths for n in samples):
        exact = Moments(np.zeros(width), np.diag(1 / np.arange(1, width + 1)))
        for name, (mean, variance) in laws(width).items():
            truth = frechet_distance(Moments(mean, np.diag(variance)), exact)
            rng, found, values = np.random.default_rng(0), [], []
            for _ in range(repeats):
                features = Features("", mean + np.sqrt(variance) * rng.standard_normal((n, width)))
                values.append(frechet_distance(features.moments, exact))
                found.append(intervals(features, exact, rng))
            click.echo(
                f"d = {width}, N = {n}, {name}: distance {truth:.4f}, plain one above by {np.mean(values) - truth:+.4f}"
            )
            for kind in found[0]:
                low, high = np.array([each[kind] for each in found]).T
                covered = np.mean((low <= truth) & (truth <= high))
                click.echo(f"  {kind:22s} covers {100 * covered:5.1f} %, width {np.mean(high - low):.4f}")


if __name__ == "__main__":
    main()
