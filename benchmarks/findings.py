"""The study behind docs/reports/findings.md: the shift of both bundled checkpoints under each solver, by all five estimators.

    python benchmarks/findings.py --out runs/findings        # an hour and a half on two CPU cores; resumes

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
from noiseshift.analysis import drawing, plots
from rich.progress import Progress

import noiseshift as ns
from noiseshift.studies.folders import Run

MATRIX = {
    "fashion-sit": [
        *("euler:5", "euler:10", "euler:20", "em:20", "em:50", "heun:10"),
        *("euler:250", "em:250", "euler:50"),
    ],
    "fashion-ddpm": ["ddpm:20", "ddim:20", "ddim:50", "ddpm:250", "ddim:250", "ddpm:50"],
}
CHEAP = {"network": None, "residual": None, "constant-pixel": None}
ALL = {**CHEAP, "fokker-planck": 16, "score-mixture": 16}
"""All five estimators; the two that ask the network dozens of times per state read 16 samples."""


def estimators_of(name: str, solver: str) -> dict[str, int | None]:
    """All five on the flow model and on the sibling's 50-step runs; the three cheap ones on the rest."""
    return ALL if name == "fashion-sit" or solver.endswith(":50") else CHEAP


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
                count = samples // 2 if solver.endswith(":250") else samples
                protocol = ns.Protocol(ns.solver(solver), count, estimators_of(name, solver), points=8, controls=True)
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


PANELS = {
    "fashion-sit, Euler": ("fashion-sit", ["euler:5", "euler:10", "euler:20", "euler:50", "euler:250"]),
    "fashion-sit, Euler–Maruyama": ("fashion-sit", ["em:20", "em:50", "em:250"]),
    "fashion-sit, Heun": ("fashion-sit", ["heun:10"]),
    "fashion-ddpm, DDIM": ("fashion-ddpm", ["ddim:20", "ddim:50", "ddim:250"]),
    "fashion-ddpm, DDPM": ("fashion-ddpm", ["ddpm:20", "ddpm:50", "ddpm:250"]),
}


def overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run and estimator: rms shifts over the steps that can be read, and the largest resolved one."""
    rows = []
    for keys, part in frame.groupby(["checkpoint", "solver", "estimator"], sort=False):
        read, seen = part[part["shift"].notna()], part[part.resolved]
        largest = seen.loc[seen["shift"].abs().idxmax()] if len(seen) else None
        rows.append(
            {
                **dict(zip(("checkpoint", "solver", "estimator"), keys, strict=True)),
                "resolved": f"{len(seen)}/{len(read)}",
                "largest": "–" if largest is None else f"{largest['shift']:+.4f} at {largest.t:.2f}",
                "rms δ": _rms(read["shift"]),
                "rms content δ": _rms(read.content_shift),
                "rms solver δ": _rms(read.solver_shift),
                "rms network δ": _rms(read.model_shift),
                "floor": float(read.floor.median()) if len(read) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean()))


def figures(frame: pd.DataFrame, out: Path, into: Path) -> None:
    """δ(t) against solvers, the solver's own share dashed; and all five estimators side by side."""
    into.mkdir(parents=True, exist_ok=True)
    with drawing.style():
        figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.2), sharex=True)
        for ax, (title, (name, solvers)) in zip(axes, PANELS.items(), strict=True):
            ax.axhline(0, color="black", linewidth=0.8)
            for colour, solver in zip(plots.COLOURS.values(), solvers, strict=False):
                part = frame[(frame.checkpoint == name) & (frame.solver == solver) & (frame.estimator == "network")]
                ax.fill_between(part.t, part.low, part.high, color=colour, alpha=0.15, linewidth=0)
                ax.plot(part.t, part["shift"], marker="o", markersize=3, color=colour, label=solver)
                ax.plot(part.t, part.solver_shift, linestyle="--", linewidth=1, color=colour)
            ax.set(title=title, xlim=(1, 0), xlabel="conditioning time t")
            ax.legend()
        axes[0].set_ylabel("δ by the network estimator\n(dashed: exact model)")
        figure.savefig(into / "findings-solvers.png", dpi=130)
        plt.close(figure)
        figure, axes = plt.subplots(2, 2, figsize=(10, 6))
        for row, (name, solver) in zip(axes, (("fashion-sit", "euler:50"), ("fashion-ddpm", "ddpm:50")), strict=True):
            reports = Run.load(folder_of(out, name, solver)).reports
            plots.plot_shift(reports, ax=row[0]).set_title(f"{name}, {solver}: against real data")
            plots.plot_content_shift(reports, ax=row[1]).set_title(f"{name}, {solver}: against its own final samples")
        figure.savefig(into / "findings-estimators.png", dpi=130)
        plt.close(figure)


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
    if all(folder_of(out, name, solver).exists() for name, solvers in MATRIX.items() for solver in solvers):
        frame = table(out)
        frame.to_csv(out / "findings.csv", index=False)
        click.echo(overview(frame).round(4).to_string(index=False))
        figures(frame, out, out / "figures")


if __name__ == "__main__":
    main()
