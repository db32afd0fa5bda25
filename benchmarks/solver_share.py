"""The solver's part of a shift by step refinement, where the truth is known; prints the table of docs/reports/controls.md.

    python benchmarks/solver_share.py                # 48 cells, about half an hour on one core
    python benchmarks/solver_share.py --dims 64 --solvers em --steps 20 --each
    python benchmarks/solver_share.py --dims 784 --solvers heun --steps 20 --noise 40

Gaussian data of spectrum k^-1.5, the exact posterior as estimator, 128 samples. A perfect network: all of the shift is the
solver's, so the network's part must be 0. Networks of known fault: noise left (its x0 keeps a tenth of the noise),
over-smoothed (the tail of the spectrum is taken for half as large), a level biased by 5 % of sigma.

All of these networks are linear in the state, so a step maps each coordinate's variance exactly. The truth is the shift of the
states of 256 steps, extrapolated with those of 128, whose variances are propagated without sampling. "bias" is what the split
says of exact means, minus the truth: the largest over networks and levels, of the whole shift there (over 0.002 at least).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor

import noiseshift as ns
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.refining import refine
from noiseshift.estimators.instrument import Array, Instrument
from noiseshift.shift.refinement import FACTORS, Refinement
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.shares import shares

TIMES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
ORDERS = {"em": 1, "euler": 1, "heun": 2, "ddpm": 1}
UPDATES: dict[str, Callable[[], object]] = {
    "em": ns.euler_maruyama,
    "euler": lambda: ns.euler,
    "heun": lambda: ns.heun,
    "ddpm": lambda: ns.ancestral,
}
SCHEDULE = ns.Linear()
DRAWS = 500
"""States of a known variance whose mean reading is the truth."""


def gaussian(variances: Tensor) -> ns.targets.Gaussian:
    return ns.targets.Gaussian(torch.zeros(len(variances), dtype=torch.float64), variances)


def spectrum(dim: int) -> Tensor:
    values = torch.arange(1, dim + 1, dtype=torch.float64) ** -1.5
    return values / values.mean() * 0.25


def networks(dim: int) -> dict[str, Model]:
    """The perfect network and three with a known fault."""
    variances = spectrum(dim)
    exact = gaussian(variances).model(SCHEDULE)
    smoothed = gaussian(variances * torch.where(torch.arange(dim) < dim // 2, 1.0, 0.5)).model(SCHEDULE)

    def leaving(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        said = exact(x, t, cond)
        return said.x0 + 0.1 * said.level.sigma / said.level.alpha.clamp_min(0.1) * said.eps

    def biased(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return exact(x, (t * 0.95).clamp(0.001, 0.999), cond).x0

    return {
        "perfect": exact,
        "noise left": ns.wrap(leaving, SCHEDULE, predicts="x0"),
        "over-smoothed": smoothed,
        "biased level": ns.wrap(biased, SCHEDULE, predicts="x0"),
    }


def grid(steps: int) -> Tensor:
    """Even times that pass through TIMES, as far as there are enough of them."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t in TIMES:
        even[int((even - t).abs()[1:-1].argmin()) + 1] = t
    return torch.unique(even).flip(0)


def variances_of(model: Model, times: Tensor, solver: str, dim: int) -> dict[float, Tensor]:
    """Exact variances (d,) of the states at TIMES: a step takes one row of spreads without noise, and one of noise alone."""
    spread, found = torch.ones(dim, dtype=torch.float64), {}
    noise = torch.stack([torch.zeros(dim), torch.ones(dim)]).double()
    for pair in times[:-1].unfold(0, 2, 1):
        rows = torch.stack([spread, torch.zeros_like(spread)])
        *_, last = ns.sample(model, rows, pair, update=UPDATES[solver](), noise=lambda x: noise)
        spread = last.x.square().sum(0).sqrt()
        found[float(pair[1])] = spread.square()
    return {t: found[t] for t in TIMES if t in found}


@functools.lru_cache
def white(dim: int) -> Tensor:
    return torch.randn(DRAWS, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@functools.lru_cache
def estimator(dim: int) -> ns.Estimator:
    return gaussian(spectrum(dim)).estimator(SCHEDULE)


def reading(variance: Tensor) -> float:
    """The exact posterior's mean over states of these variances (d,)."""
    return float(estimator(len(variance))(white(len(variance)) * variance.sqrt(), None).mean.mean())


def truth(model: Model, solver: str, dim: int, instrument: Instrument) -> dict[float, float]:
    """By time, the shift of a network without its solver: the limit of ever more steps."""
    coarse, fine = (variances_of(model, grid(n), solver, dim) for n in (128, 256))
    order = 2.0 ** ORDERS[solver]
    return shifts({t: fine[t] + (fine[t] - coarse[t]) / (order - 1) for t in fine}, dim, instrument)


def shifts(variances: dict[float, Tensor], dim: int, instrument: Instrument) -> dict[float, float]:
    """By time, the shift of states of these variances, as the instrument reads it on average."""
    found = {}
    for t, slope in zip(instrument.times.tolist(), instrument.calibration.slope, strict=True):
        found[t] = (reading(variances[t]) - real_reading(t, dim)) / float(slope)
    return found


@functools.lru_cache(maxsize=64)
def real_reading(t: float, dim: int) -> float:
    level = SCHEDULE(torch.tensor(t, dtype=torch.float64))
    return reading(float(level.alpha) ** 2 * spectrum(dim) + float(level.sigma) ** 2)


def expected(model: Model, times: Tensor, solver: str, dim: int, instrument: Instrument) -> Array:
    """(K,) the network's part that the split gives for exact means."""
    grids = [refine(model, times, factor) if factor > 1 else times for factor in FACTORS]
    _, middle, fine = (
        np.array([*shifts(variances_of(model, each, solver, dim), dim, instrument).values()]) for each in grids
    )
    return fine + (fine - middle) / (2 ** ORDERS[solver] - 1)


def runs(model: Model, times: Tensor, solver: str, samples: int, seed: int, dim: int) -> Iterator[Iterator]:
    """Under N, 2N and 4N steps along one Brownian path: a coarse draw is the sum of its fine ones over the root of their number."""
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    finest = torch.randn(FACTORS[-1] * (len(times) - 1), samples, dim, generator=generator).double()
    for factor in FACTORS:
        parts = FACTORS[-1] // factor
        draws = iter(finest.reshape(-1, parts, samples, dim).sum(1) / parts**0.5)
        steps = refine(model, times, factor) if factor > 1 else times
        yield ns.sample(model, initial, steps, update=UPDATES[solver](), noise=lambda x, draws=draws: next(draws))


@functools.lru_cache(maxsize=4)
def calibrated(dim: int, at: tuple[float, ...], seed: int) -> Instrument:
    real = gaussian(spectrum(dim)).sample(400, torch.Generator().manual_seed(1000 + seed))
    return ns.calibrate(estimator(dim), real, torch.tensor(at, dtype=torch.float64), seed=seed)


def case(dim: int, solver: str, steps: int, samples: int, seed: int, truths: dict) -> pd.DataFrame:
    """The table of `shift.shares` for each network, with the truth beside it."""
    times = grid(steps)
    instrument = calibrated(dim, tuple(t for t in TIMES if t in times.tolist()), seed)
    found, perfect = [], None
    for name, model in networks(dim).items():
        reports: list[ShiftReport] = [
            ns.measure(run, instrument, content=False) for run in runs(model, times, solver, samples, seed, dim)
        ]
        perfect = perfect or reports[0]
        refinement = Refinement(
            "exact", ORDERS[solver], np.stack([r.sampled.t for r in reports]), instrument.calibration
        )
        table = shares(reports[0], refinement, perfect).assign(
            d=dim, solver_name=solver, steps=steps, network_name=name
        )
        table["expected"] = expected(model, times, solver, dim, instrument)
        table["truth"] = [0.0 if name == "perfect" else truths[name][float(t)] for t in table.t]
        found.append(table)
    return pd.concat(found).dropna(subset="network")


def summary(table: pd.DataFrame) -> dict[str, object]:
    """What is counted of one dimension, solver and number of steps."""
    error = (table.network - table.truth).abs()
    inside = (table.network_low <= table.truth) & (table.truth <= table.network_high)
    off = (table.expected - table.truth).abs()
    close = error <= 0.1 * table.total.abs()
    perfect = table.network_name == "perfect"
    said = (table.network_low > 0) | (table.network_high < 0)
    wrong = said & (np.sign(table.network) != np.sign(table.truth)) & ~inside
    named = table.whose.isin(["network", "both"])
    return {
        "rows": len(table),
        "inside": int((inside | close).sum()),
        "bias": f"{100 * (off / table.total.abs().clip(lower=0.002)).max():.0f} %",
        "median error": f"{error.median():.4f}",
        "exact-model error": f"{(table.exact_network - table.truth)[~perfect].abs().median():.4f}",
        "reached": int(table.reached.sum()),
        "wrong sign": int(wrong.sum()),
        "perfect: network's": int((named & perfect).sum()),
        "faulty: network's": f"{int((named & ~perfect).sum())} of {int((~perfect).sum())}",
    }


def under_seeds(dim: int, solver: str, steps: int, samples: int, seeds: int) -> pd.DataFrame:
    """By level, the whole shift of a perfect network under so many seeds: its mean, the standard deviation of (shift - mean) over
    its own standard error, and how often its interval leaves out the mean. Prints the smallest and the largest initial noise."""
    model, times, found = networks(dim)["perfect"], grid(steps), []
    for seed in range(seeds):
        instrument = calibrated(dim, tuple(t for t in TIMES if t in times.tolist()), seed)
        coarse = next(runs(model, times, solver, samples, seed, dim))
        found.append(ns.measure(coarse, instrument, content=False).table()[["t", "shift", "low", "high"]])
    table = pd.concat(found)
    mean = table.groupby("t")["shift"].transform("mean")
    table["z"] = (table["shift"] - mean) / ((table.high - table.low) / 3.92)
    table["left out"] = (table.low > mean) | (table.high < mean)
    sizes = [initial_noise(dim, samples, seed) for seed in range(seeds)]
    print(f"initial noise, in standard deviations: {np.sort(sizes).round(2)[[0, 1, -2, -1]]} of {seeds}")
    return table.groupby("t").agg(shift=("shift", "mean"), z=("z", "std"), left_out=("left out", "mean"))


def initial_noise(dim: int, samples: int, seed: int) -> float:
    """How far the mean square of a run's initial noise is from 1, in its standard deviations."""
    drawn = torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return float((drawn.square().mean() - 1) / (2 / drawn.numel()) ** 0.5)


@click.command()
@click.option("--dims", default="16,64,256,784", show_default=True)
@click.option("--solvers", default="em,euler,heun,ddpm", show_default=True)
@click.option("--steps", default="10,20,50", show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--noise", default=0, help="Instead: a perfect network alone, under so many seeds.")
@click.option("--each", is_flag=True, help="Also print every row that is outside.")
@click.option("--out", type=click.Path(), help="Add the lines to this CSV, each as soon as it is known.")
def main(dims: str, solvers: str, steps: str, samples: int, seed: int, noise: int, each: bool, out: str | None) -> None:
    torch.set_num_threads(1)
    if noise:
        for dim, solver, n in itertools.product(
            map(int, dims.split(",")), solvers.split(","), map(int, steps.split(","))
        ):
            print(f"\n{dim} dimensions, {solver}, {n} steps\n{under_seeds(dim, solver, n, samples, noise).round(3)}")
        return
    totals, heading = [], False
    for dim, solver in itertools.product(map(int, dims.split(",")), solvers.split(",")):
        instrument = calibrated(dim, TIMES, seed)
        truths = {name: truth(model, solver, dim, instrument) for name, model in networks(dim).items()}
        for n in map(int, steps.split(",")):
            table = case(dim, solver, n, samples, seed, truths)
            row = {"d": dim, "solver": solver, "steps": n} | summary(table)
            if not heading:
                print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
                heading = True
            print(f"| {' | '.join(map(str, row.values()))} |", flush=True)
            if out:
                pd.DataFrame([row]).to_csv(out, mode="a", header=not Path(out).exists(), index=False)
            if each:
                outside = (table.network - table.truth).abs() > 0.1 * table.total.abs()
                outside &= (table.truth < table.network_low) | (table.truth > table.network_high)
                columns = ["network_name", "t", "total", "network", "network_low", "network_high", "truth", "reached"]
                print(table[outside][columns].round(4).to_string(index=False))
                print("perfect, to the limit:", {t: round(v, 5) for t, v in truths["perfect"].items()})
            totals.append(table)
    print(f"\n{summary(pd.concat(totals))}")


if __name__ == "__main__":
    main()
