"""The solver's part of a shift under schedulers of diffusers, where the truth is known.

    python benchmarks/scheduler_share.py                # some minutes on one core; writes docs/data/scheduler-share.csv
    python benchmarks/scheduler_share.py --seeds 2 --only DDIMScheduler:20

Gaussian data of spectrum k^-1.5 on DDPM's table or a flow's path, the exact posterior as estimator, 128 samples, through the
code that `--controls` runs: the scheduler's own steps, N times and more of them. A perfect network, whose part must be 0, and
two of known fault: its x0 keeps a tenth of the noise; it takes the tail of the spectrum for half as large.

The truth is the shift at 5 N to 9 N further steps than the finest of the three, extrapolated at the scheduler's order; these
networks are linear in the state, so that one run on ones gives every coordinate's spread without sampling. Schedulers that
draw noise are tried with the perfect network alone. *Held*: the truth lies inside the interval, or within 10 % of the shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from solver_share import gaussian, spectrum
from torch import Tensor

import noiseshift as ns
from noiseshift.checkpoints.card import Card
from noiseshift.checkpoints.loading import Checkpoint
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Instrument
from noiseshift.shift.shares import shares
from noiseshift.studies.finer_steps import finer_steps
from noiseshift.studies.sampling import sampler_run
from noiseshift.studies.solver_share import _refinements as refinements

ROOT = Path(__file__).parent.parent
TIMES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
FLOW = "use_flow_sigmas=True,prediction_type=flow_prediction"
WORDS = (
    "DDIMScheduler:20",
    "DDIMScheduler:50,timestep_spacing=trailing",
    "EulerDiscreteScheduler:20",
    "EulerDiscreteScheduler:20,use_karras_sigmas=True",
    "HeunDiscreteScheduler:10",
    "DPMSolverMultistepScheduler:20",
    "UniPCMultistepScheduler:20",
    "PNDMScheduler:25",
    "DDPMScheduler:20",
    "EulerAncestralDiscreteScheduler:20",
    "FlowMatchEulerDiscreteScheduler:20,shift=3.0",
    "FlowMatchHeunDiscreteScheduler:10",
    f"DPMSolverMultistepScheduler:20,{FLOW}",
)
DRAWN = ("DDPM", "Ancestral")
"""Of schedulers that draw noise, whose states are not a linear map of their start."""
SAMPLES, DRAWS = 128, 500


def networks(schedule: Schedule, dim: int) -> dict[str, Model]:
    variances = spectrum(dim)
    exact = gaussian(variances).model(schedule)

    def leaving(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        said = exact(x, t, cond)
        return said.x0 + 0.1 * said.level.sigma / said.level.alpha.clamp_min(0.1) * said.eps

    return {
        "perfect": exact,
        "noise left": ns.wrap(leaving, schedule, predicts="x0"),
        "over-smoothed": gaussian(variances * torch.where(torch.arange(dim) < dim // 2, 1.0, 0.5)).model(schedule),
    }


def checkpoint_of(model: Model, dim: int) -> Checkpoint:
    return Checkpoint("exact", model, Card("callable"), "0" * 64, (dim,), 0, None, lambda x: x)


def truth(checkpoint: Checkpoint, protocol: ns.Protocol, instrument: Instrument, dim: int) -> np.ndarray:
    """(K,) shifts to the limit of ever more steps: Richardson's of the finest run and one of more steps, both exact."""
    finer = finer_steps(checkpoint, protocol)
    assert finer is not None
    middle, fine = (exact_shifts(checkpoint, protocol, start, instrument, dim) for start in finer.starts[1:])
    ratio = (finer.factors[2] / finer.factors[1]) ** finer.order
    coarse_limit = fine + (fine - middle) / (ratio - 1)
    more = replace(protocol, solver=finer.starts[-1].args[1])
    again = finer_steps(checkpoint, more)
    if again is None:
        return coarse_limit
    middle, fine = (exact_shifts(checkpoint, more, start, instrument, dim) for start in again.starts[1:])
    ratio = (again.factors[2] / again.factors[1]) ** again.order
    return fine + (fine - middle) / (ratio - 1)


def exact_shifts(
    checkpoint: Checkpoint, protocol: ns.Protocol, start: Callable, instrument: Instrument, dim: int
) -> np.ndarray:
    """(K,) what the instrument reads on average of states whose spread each coordinate's own run gives."""
    solver = start.args[1]
    update = solver.update()
    assert isinstance(update, Scheduled)
    x = torch.ones(1, dim, dtype=torch.float64)
    found: dict[float, Tensor] = {}
    for step in ns.sample(checkpoint.model, x, None, update=update):
        if not step.internal:
            found.setdefault(round(float(step.t), 6), step.x[0].double() ** 2)
    white = torch.randn(DRAWS, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    shifts = []
    for t, slope in zip(instrument.times.tolist(), instrument.calibration.slope, strict=True):
        level = checkpoint.model.schedule(torch.tensor(t, dtype=torch.float64))
        real = float(level.alpha) ** 2 * spectrum(dim) + float(level.sigma) ** 2
        there, here = (
            instrument.estimator(white * v.sqrt(), None).mean.mean() for v in (found[round(float(t), 6)], real)
        )
        shifts.append(float(there - here) / float(slope))
    return np.array(shifts)


def case(word: str, dim: int, seed: int) -> pd.DataFrame:
    flow = "Flow" in word or "flow" in word
    schedule = ns.Linear() if flow else ns.Discrete.from_betas()
    found, perfect = [], None
    for name, model in networks(schedule, dim).items():
        if name != "perfect" and any(kind in word for kind in DRAWN):
            continue
        checkpoint = checkpoint_of(model, dim)
        solver = ns.solver(f"diffusers/{word}").bound(checkpoint)
        update = solver.update()
        visited = torch.unique(update.conditioning_times(schedule)[~torch.tensor(update.internal())])
        inside = visited[(visited > 0.01) & (visited < 0.99)]
        times = torch.unique(torch.stack([inside[(inside - t).abs().argmin()] for t in TIMES])).flip(0)
        real = gaussian(spectrum(dim)).sample(400, torch.Generator().manual_seed(1000 + seed))
        estimator = gaussian(spectrum(dim)).estimator(schedule)
        instrument = ns.calibrate(estimator, real, times, seed=seed)
        protocol = ns.Protocol(solver, SAMPLES, seed=seed)
        report = ns.measure(
            sampler_run(model, checkpoint, protocol, range(SAMPLES)), {"exact": instrument}, content=False
        )["exact"]
        perfect = perfect or report
        refined = refinements(checkpoint, protocol, {"exact": instrument}, lambda *_: None)["exact"]
        table = shares(report, refined, perfect).assign(d=dim, scheduler=word, network_name=name, seed=seed)
        table["truth"] = 0.0 if name == "perfect" else truth(checkpoint, protocol, instrument, dim)
        found.append(table)
    return pd.concat(found).dropna(subset="network")


def summary(table: pd.DataFrame) -> dict[str, object]:
    error = (table.network - table.truth).abs()
    inside = (table.network_low <= table.truth) & (table.truth <= table.network_high)
    held = inside | (error <= 0.1 * table.total.abs())
    said = (table.network_low > 0) | (table.network_high < 0)
    perfect = table.network_name == "perfect"
    named = table.whose.isin(["network", "both"])
    return {
        "rows": len(table),
        "held": int(held.sum()),
        "perfect: held": int((held & perfect).sum()),
        "perfect: rows": int(perfect.sum()),
        "reached": int(table.reached.sum()),
        "median error": f"{error.median():.4f}",
        "wrong side": int((said & ~inside & (np.sign(table.network) != np.sign(table.truth))).sum()),
        "perfect: network's": int((named & perfect).sum()),
        "faulty: network's": int((named & ~perfect).sum()),
    }


@click.command()
@click.option("--dim", default=64, show_default=True)
@click.option("--seeds", default=8, show_default=True)
@click.option("--only", help="One scheduler's word.")
def main(dim: int, seeds: int, only: str | None) -> None:
    torch.set_num_threads(1)
    rows, tables = [], []
    for word in WORDS if only is None else (only,):
        table = pd.concat([case(word, dim, seed) for seed in range(seeds)])
        rows.append({"scheduler": word} | summary(table))
        tables.append(table)
        print(f"| {' | '.join(map(str, rows[-1].values()))} |", flush=True)
    rows.append({"scheduler": "all"} | summary(pd.concat(tables)))
    print(f"| {' | '.join(rows[-1])} |\n| {' | '.join(map(str, rows[-1].values()))} |")
    if only is None:
        pd.DataFrame(rows).to_csv(ROOT / "docs" / "data" / "scheduler-share.csv", index=False)


if __name__ == "__main__":
    main()
