"""The mathematics behind docs/reports/statement-1.md: how far first order holds on each schedule, what a posterior sees as
directions fill with signal, and the oracle of a low-rank mixture.

    python benchmarks/statement.py            # under a minute
"""

from __future__ import annotations

import click
import pandas as pd
import torch

import noiseshift as ns
from noiseshift.approximation import Spectrum, check, exact_shift, first_order_limit

SCHEDULES = {
    "linear": ns.Linear(),
    "cosine": ns.Cosine(),
    "variance-preserving": ns.VariancePreserving(),
    "variance-exploding": ns.VarianceExploding(),
}
TIMES = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.7], dtype=torch.float64)


def limits() -> pd.DataFrame:
    """Largest σ_e/σ_t at which first order is within 5 % and 10 % of the exact `sigma` root."""
    columns = {
        f"{name}, {100 * tolerance:.0f} %": first_order_limit(schedule, TIMES, tolerance).numpy()
        for name, schedule in SCHEDULES.items()
        for tolerance in (0.05, 0.10)
    }
    return pd.DataFrame(columns, index=pd.Index(TIMES.tolist(), name="t")).T


def filling(t: float = 0.4, sigma_e: float = 0.04, dim: int = 1000) -> pd.DataFrame:
    """The posterior root of Gaussian data, linear schedule, as r of d directions hold strong signal."""
    rows = []
    for share in (0.0, 0.02, 0.1, 0.3, 0.6, 0.9):
        variances = torch.zeros(dim, dtype=torch.float64)
        variances[: round(share * dim)] = 1e4
        data = Spectrum(variances, torch.zeros_like(variances))
        rows.append({"r/d": share, "posterior": float(exact_shift(ns.Linear(), t, sigma_e, "posterior", data=data))})
    frame = pd.DataFrame(rows)
    return frame.assign(
        sigma=float(exact_shift(ns.Linear(), t, sigma_e)), snr=float(exact_shift(ns.Linear(), t, sigma_e, "snr"))
    )


def oracle(size: float) -> pd.DataFrame:
    """Ten components of rank 20 in 784 dimensions, means of standard deviation `size`, σ_e = 0.1, 64 states, exact posterior."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(10, 784, 20, generator=generator, dtype=torch.float64) / 20**0.5
    means = size * torch.randn(10, 784, generator=generator, dtype=torch.float64)
    rest = torch.full((10,), 1e-6, dtype=torch.float64)
    target = ns.targets.GaussianMixture(torch.ones(10, dtype=torch.float64), means, ns.targets.LowRank(factors, rest))
    times = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    data = target.sample(64, torch.Generator().manual_seed(1))
    table = check(data, target.estimator(ns.Linear()), times, torch.tensor([0.1])).table()
    return table[["t", "measured", "low", "high", "sigma", "snr", "first_order"]].assign(means=size)


@click.command()
def main() -> None:
    for title, frame in (
        ("first order within 5 % and 10 % of the sigma root, up to this sigma_e/sigma_t", limits()),
        ("what a posterior sees, t = 0.4, sigma_e = 0.04, linear schedule", filling()),
        ("oracle: mixture, d = 784, rank 20, sigma_e = 0.1", pd.concat([oracle(0.0), oracle(0.3), oracle(1.0)])),
    ):
        click.echo(f"\n{title}\n{frame.round(4).to_string()}")


if __name__ == "__main__":
    main()
