"""False alarms and coverage of the instrument, over many independent repeats.

    python benchmarks/controls.py                       # Fashion-MNIST test images, the bundled checkpoint
    python benchmarks/controls.py --target mixture      # an exact mixture, d = 64, with the model-based estimators

Each repeat draws fresh real samples, calibrates on half of them and reads the other half: first at the conditioning level (any
resolved shift is a false alarm, 5 % nominal), then at a level off by a known min(t, 1 - t)/16 (the 95 % interval must
hold it). Printed with the binomial 99 % band. On images the data are Debian's `dataset-fashion-mnist`, test split: the
bundled networks never saw it.
"""

from __future__ import annotations

import click
import numpy as np
import pandas as pd
import torch
from scipy import stats

import noiseshift as ns
from noiseshift.diffusion.noise import POSITIVE
from noiseshift.estimators import ConstantPixel, FokkerPlanck, Network, Residual, ScoreMixture
from noiseshift.estimators.instrument import calibrate, readable
from noiseshift.estimators.posterior import time_grid
from noiseshift.shift.controls import real_report

TIMES = torch.tensor([0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8], dtype=torch.float64)


def images(folder: str, rows: int, repeats: int):
    """Per repeat: estimators fitted on nothing that is read, and `rows` fresh test images."""
    data = ns.data.load_idx(folder, "t10k")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    checkpoint = ns.load()
    fit = ns.data.load_idx(folder, "train")[:2000]
    generator = torch.Generator().manual_seed(1)
    estimators = {
        "network": Network.load(checkpoint.estimator),
        "constant-pixel": ConstantPixel(fit.floats, checkpoint.model.schedule),
        "residual": Residual(checkpoint.model, fit[:256].floats, TIMES, generator=generator, cond=fit[:256].labels),
    }
    for r in range(repeats):
        part = data[order[r * rows : (r + 1) * rows]]
        yield estimators, part.floats, part.labels


def mixture(rows: int, repeats: int):
    """Per repeat: the exact posterior, Fokker–Planck and score mixture on a rank-20 mixture in 64 dimensions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 64, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, 64, 20, generator=generator, dtype=torch.float64) / 20**0.5
    low_rank = ns.targets.LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64))
    target = ns.targets.GaussianMixture(torch.full((10,), 0.1, dtype=torch.float64), means, low_rank)
    model, grid = target.model(ns.Linear()), time_grid(ns.Linear(), 48, 0.01, 0.98)
    estimators = {
        "exact": target.estimator(ns.Linear(), grid),
        "fokker-planck": FokkerPlanck(model, grid),
        "score-mixture": ScoreMixture(model, grid),
    }
    for _ in range(repeats):
        yield estimators, target.sample(rows, generator), None


@click.command()
@click.option("--target", type=click.Choice(["images", "mixture"]), default="images", show_default=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--repeats", default=20, show_default=True)
@click.option("--rows", default=400, show_default=True, help="Real samples a repeat; half calibrate.")
@click.option("--estimator", "chosen", multiple=True, help="Only these; all by default.")
@click.option("--out", type=click.Path(), help="Also write the cells as CSV.")
def main(target: str, data: str, repeats: int, rows: int, chosen: tuple[str, ...], out: str | None) -> None:
    cells = []
    source = images(data, rows, repeats) if target == "images" else mixture(rows, repeats)
    for r, (estimators, x0, cond) in enumerate(source):
        for name, estimator in estimators.items():
            if chosen and name not in chosen:
                continue
            halves = [(x0[i::2], None if cond is None else cond[i::2]) for i in (0, 1)]
            instrument = calibrate(estimator, halves[0][0], TIMES, cond=halves[0][1], seed=r)
            times = instrument.times
            offset = np.minimum(times, 1 - times) / 16
            null = real_report(name, instrument, halves[1][0], cond=halves[1][1], seed=r).table()
            known = real_report(
                name,
                instrument,
                halves[1][0],
                cond=halves[1][1],
                offset=offset,
                seed=r,
                stream=POSITIVE,
            ).table()
            covered = (known.low <= offset) & (offset <= known.high)
            error = known["shift"] / offset - 1
            cells.append(null.assign(estimator=name, repeat=r, covered=covered, error=error))
        click.echo(f"repeat {r + 1}/{repeats}", err=True)
    frame = pd.concat(cells)
    if out:
        frame.to_csv(out, index=False)
    click.echo(
        f"{'estimator':16s} {'cells':>5s} {'false alarms (99 % band)':>28s} {'covered (99 % band)':>26s} {'error':>7s}"
    )
    for name, rows_ in frame[readable(frame.slope)].groupby("estimator"):
        n = len(rows_)
        alarm, hit = stats.binom(n, 0.05), stats.binom(n, 0.95)
        click.echo(
            f"{name:16s} {n:5d} {int(rows_.resolved.sum()):8d} ({alarm.ppf(0.005):.0f} … {alarm.ppf(0.995):.0f})"
            f"{'':>8s} {int(rows_.covered.sum()):8d} ({hit.ppf(0.005):.0f} … {hit.ppf(0.995):.0f})"
            f"{'':>6s} {100 * rows_.error.mean():+6.1f}%"
        )


if __name__ == "__main__":
    main()
