"""Model-based estimators against the exact posterior of a mixture: the oracle table.

    python benchmarks/oracle.py                     # d = 64 and 784, minutes
    python benchmarks/oracle.py --dimension 3072    # once

Ten Gaussians of rank `--rank` plus isotropic variance 1e-3. Error: rms over states of (mean - exact mean) / exact sd.
Ratio: mean of sd / exact sd. Limits: 0.15 for each, ratios
within 15 %; cells outside are marked. The last number of a cell counts the evaluations of the network per state.
"""

from __future__ import annotations

import click
import torch

import noiseshift as ns
from noiseshift.correction.counting import CountingModel
from noiseshift.estimators import FokkerPlanck, ScoreMixture, time_grid
from noiseshift.targets import GaussianMixture, LowRank

TIMES = (0.1, 0.2, 0.4, 0.6, 0.8)


def mixture(d: int, rank: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(10, d, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, d, rank, generator=generator, dtype=torch.float64) / (2 * rank**0.5)
    return GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))


@click.command()
@click.option("--dimension", "dimensions", type=int, multiple=True, default=(64, 784), show_default=True)
@click.option("--rank", type=int, help="Rank of a component: 4 at d = 64, 20 above, unless given.")
@click.option("--states", default=64, show_default=True)
def main(dimensions: tuple[int, ...], rank: int | None, states: int) -> None:
    levels = 40
    names = ("FP 3 probes", "FP 4 probes", "score mixture")
    click.echo("   d schedule             t  exact sd" + "".join(f"   {name:<18}" for name in names))
    for d in dimensions:
        target = mixture(d, rank or (4 if d < 100 else 20))
        for schedule in (ns.Linear(), ns.VariancePreserving()):
            model, grid = target.model(schedule), time_grid(schedule, levels, 0.005, 0.995)
            counted = CountingModel(model)
            estimators = (
                (FokkerPlanck(counted, grid), 0.15),
                (FokkerPlanck(counted, grid, probes=4), 0.15),
                (ScoreMixture(counted, grid), 0.15),
            )
            oracle = target.estimator(schedule, time_grid(schedule, 1500, 0.005, 0.995))
            generator = torch.Generator().manual_seed(1)
            for t in TIMES:
                x0, t_cond = target.sample(states, generator), torch.tensor(t, dtype=torch.float64)
                x = schedule(t_cond).mix(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64))
                exact, row = (
                    oracle(x),
                    f"{d:4d} {type(schedule).__name__:18s} {t:4.1f}  {float(oracle(x).std.mean()):8.4f}",
                )
                for estimator, limit in estimators:
                    counted.rows = 0
                    read = estimator(x, step=ns.Step(0, t_cond, x))
                    error = float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt())
                    ratio = float((read.std / exact.std).mean())
                    mark = "*" if error > limit or abs(ratio - 1) > 0.15 else " "
                    row += f"   {error:5.3f} {ratio:5.3f}{mark}{counted.rows / states:5.0f}"
                click.echo(row)


if __name__ == "__main__":
    main()
