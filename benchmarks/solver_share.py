"""The solver's part of a shift by step refinement, where the truth is known; prints docs/reports/controls.md's table.

    python benchmarks/solver_share.py                # about ten minutes on one core
    python benchmarks/solver_share.py --dims 64 --solvers em --steps 20

Gaussian data of spectrum k^-1.5 and the exact posterior as estimator. A perfect network: all of the shift is the solver's, so the
network's part must be 0. Networks of known fault: noise left (its x0 keeps a tenth of the noise), over-smoothed (the
tail of the spectrum is taken for half as large), a level biased by 5 % of sigma. There the truth is the shift of the
faulty network under 64 times the steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from torch import Tensor

import noiseshift as ns
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
from noiseshift.diffusion.refining import refine, refined_noise
from noiseshift.diffusion.samplers import per_sample_noise
from noiseshift.estimators.instrument import Instrument
from noiseshift.shift.refinement import FACTORS, Refinement

TIMES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
ORDERS = {"em": 1, "euler": 1, "heun": 2, "ddpm": 1}
UPDATES: dict[str, Callable[[], object]] = {
    "em": ns.euler_maruyama,
    "euler": lambda: ns.euler,
    "heun": lambda: ns.heun,
    "ddpm": lambda: ns.ancestral,
}


def spectrum(dim: int) -> Tensor:
    values = torch.arange(1, dim + 1, dtype=torch.float64) ** -1.5
    return values / values.mean() * 0.25


def networks(dim: int, schedule: ns.Schedule) -> dict[str, Model]:
    """The perfect network and three with a known fault."""
    variances = spectrum(dim)
    exact = ns.targets.Gaussian(torch.zeros(dim, dtype=torch.float64), variances).model(schedule)
    smooth = variances * torch.where(torch.arange(dim) < dim // 2, 1.0, 0.5)
    smoothed = ns.targets.Gaussian(torch.zeros(dim, dtype=torch.float64), smooth).model(schedule)

    def leaving(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        said = exact(x, t, cond)
        return said.x0 + 0.1 * said.level.sigma / said.level.alpha.clamp_min(0.1) * said.eps

    def biased(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return exact(x, (t * 0.95).clamp(0.001, 0.999), cond).x0

    return {
        "perfect": exact,
        "noise left": ns.wrap(leaving, schedule, predicts="x0"),
        "over-smoothed": smoothed,
        "biased level": ns.wrap(biased, schedule, predicts="x0"),
    }


def grid(steps: int) -> Tensor:
    """Even times that pass through TIMES."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    nearest = [int((even - t).abs()[1:-1].argmin()) + 1 for t in TIMES]
    even[nearest] = torch.tensor(TIMES, dtype=torch.float64)
    return torch.unique(even).flip(0)


def runs(
    model: Model, times: Tensor, solver: str, samples: int, seed: int, dim: int, factors: tuple[int, ...]
) -> Iterator:
    """One run a factor, along one Brownian path."""
    finest = refine(model, times, factors[-1])
    for factor in factors:
        steps = refine(model, times, factor) if factor > 1 else times
        sources = generators(range(samples), seed=seed, stream=SAMPLING)
        noise = per_sample_noise(sources) if factor == factors[-1] else refined_noise(sources, steps, finest)
        x = normal(generators(range(samples), seed=seed, stream=INITIAL), (dim,)).double()
        yield ns.sample(model, x, steps, update=UPDATES[solver](), noise=noise)


def read(steps: Iterator, instrument: Instrument) -> np.ndarray:
    return ns.measure(steps, instrument, content=False).sampled.t


def case(dim: int, solver: str, steps: int, samples: int, seed: int) -> list[tuple]:
    schedule = ns.Linear()
    target = ns.targets.Gaussian(torch.zeros(dim, dtype=torch.float64), spectrum(dim))
    estimator = target.estimator(schedule)
    real = target.sample(400, torch.Generator().manual_seed(1000 + seed))
    times = grid(steps)
    at = torch.tensor([t for t in TIMES if t in times.tolist()], dtype=torch.float64)
    instrument = ns.calibrate(estimator, real, at, seed=seed)
    rows = []
    reference = None
    for name, model in networks(dim, schedule).items():
        readings = np.stack([read(r, instrument) for r in runs(model, times, solver, samples, seed, dim, FACTORS)])
        plain = ns.measure(next(runs(model, times, solver, samples, seed, dim, (1,))), instrument, content=False)
        table = Refinement("exact", ORDERS[solver], readings, instrument.calibration).split(plain)
        slope = instrument.calibration.slope
        if name == "perfect":
            reference = table.total.to_numpy()
            truth = np.zeros(len(table))
        else:
            (deep,) = (
                read(r, instrument) for r in runs(model, refine(model, times, 16), solver, samples, seed, dim, (1,))
            )
            truth = (deep.mean(0) - instrument.calibration.real.t.mean(0)) / slope
        table["truth"], table["exact"] = truth, table.total - reference
        rows += [(name, row) for row in table.to_dict("records")]
    return rows


@click.command()
@click.option("--dims", default="16,64,784")
@click.option("--solvers", default="em,euler,heun,ddpm")
@click.option("--steps", default="10,20,50")
@click.option("--samples", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(dims: str, solvers: str, steps: str, samples: int, seed: int) -> None:
    torch.set_num_threads(1)
    print(
        "| d | solver | steps | network | t | total | solver | network's part, 95 % | truth | exact-model split | order |"
    )
    print("|" + "---|" * 11)
    inside = []
    for dim, solver, n in itertools.product(dims.split(","), solvers.split(","), steps.split(",")):
        for name, row in case(int(dim), solver, int(n), samples, seed):
            if math.isnan(row["network"]):
                continue
            close = abs(row["network"] - row["truth"]) <= 0.1 * abs(row["total"])
            inside.append(close or row["network_low"] <= row["truth"] <= row["network_high"])
            print(
                f"| {dim} | {solver} | {n} | {name} | {row['t']:.2f} | {row['total']:+.4f} | {row['solver']:+.4f} | "
                f"{row['network']:+.4f} [{row['network_low']:+.4f}, {row['network_high']:+.4f}] | {row['truth']:+.4f} | "
                f"{row['exact']:+.4f} | {'reached' if row['reached'] else 'not reached'} |",
                flush=True,
            )
    print(f"\n{sum(inside)} of {len(inside)} within 10 % of the shift or inside the interval")


if __name__ == "__main__":
    main()
