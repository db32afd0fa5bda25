"""The study behind docs/findings.md: the shift of both bundled checkpoints under every solver, by all five estimators.

    python benchmarks/findings.py --out runs/findings        # about an hour on two CPU cores; resumes

Each configuration is one `noiseshift measure … --controls` run in its own folder; the tables and figures that the page
shows are then made from the folders alone (`--only-figures`).
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from noiseshift.analysis import plots
from noiseshift.cli.parse import parse_solver
from rich.progress import Progress

import noiseshift as ns
from noiseshift.runs import Run

MATRIX = {
    "fashion-sit": [
        *("euler:5", "euler:10", "euler:20", "em:20", "em:50", "heun:10", "heun:25", "ddim:50"),
        *("euler:250", "em:250", "euler:50"),
    ],
    "fashion-ddpm": ["ddpm:20", "ddim:20", "ddim:50", "ddpm:250", "ddim:250", "ddpm:50"],
}
CHEAP = {"network": None, "residual": None, "constant-pixel": None}
ALL = {**CHEAP, "fokker-planck": 16, "score-mixture": 16}
FULLY = {"euler:50", "ddpm:50"}
"""Solvers that all five estimators read; the two that ask the network dozens of times a state read 16 samples."""


def folder_of(out: Path, checkpoint: str, solver: str) -> Path:
    return out / f"{checkpoint}-{solver.replace(':', '-')}"


def measure_all(out: Path, samples: int, names: tuple[str, ...]) -> None:
    data = ns.data.reference()
    with Progress() as bar:
        for name in names:
            checkpoint, solvers = ns.load(name), MATRIX[name]
            for solver in bar.track(solvers, description=name):
                folder = folder_of(out, name, solver)
                if folder.exists():
                    continue
                estimators = ALL if solver in FULLY else CHEAP
                count = samples // 2 if solver.endswith(":250") else samples
                protocol = ns.Protocol(parse_solver(solver), count, estimators, points=8, controls=True)
                ns.run(checkpoint, protocol, data).save(folder)


def table(out: Path) -> pd.DataFrame:
    """Every reading of every run, one row an estimator and step, with the exact model's shift beside it."""
    rows = []
    for name, solvers in MATRIX.items():
        for solver in solvers:
            run = Run.load(folder_of(out, name, solver))
            for estimator, report in run.reports.items():
                frame = report.table().assign(checkpoint=name, solver=solver, estimator=estimator)
                alone = run.controls.solver.get(estimator) if run.controls else None
                frame["solver_shift"] = np.nan if alone is None else alone.table()["shift"]
                frame["model_shift"] = np.nan if alone is None else (report - alone).table()["difference"]
                rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def figures(out: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for name, solvers in MATRIX.items():
        for solver in solvers:
            run = Run.load(folder_of(out, name, solver))
            axes = plots.plot_shift(run.reports)
            axes.set_title(f"{name}, {solver}")
            axes.figure.savefig(into / f"{name}-{solver.replace(':', '-')}.png", dpi=150)
            plt.close(axes.figure)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/findings"), show_default=True)
@click.option("--samples", default=256, show_default=True)
@click.option("--checkpoint", "names", multiple=True, type=click.Choice(list(MATRIX)), default=list(MATRIX))
@click.option("--threads", default=2, show_default=True)
@click.option("--only-figures", is_flag=True, help="Do not measure; use the folders that are there.")
def main(out: Path, samples: int, names: tuple[str, ...], threads: int, only_figures: bool) -> None:
    torch.set_num_threads(threads)
    if not only_figures:
        measure_all(out, samples, names)
    table(out).to_csv(out / "findings.csv", index=False)
    figures(out, out / "figures")


if __name__ == "__main__":
    main()
