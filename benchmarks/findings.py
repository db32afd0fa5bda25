"""The study behind docs/reports/findings.md: the shift of both bundled checkpoints under each solver, by all five estimators.

    python benchmarks/findings.py --out runs/findings        # about half an hour of one core; goes on after a kill

Each configuration is one `noiseshift measure … --controls` in its own folder. Writes docs/data/findings.csv (a row a run and
estimator), docs/data/findings-shares.csv (whose the shift is, a row a run and level, by the network estimator),
docs/figures/findings-solvers.png and docs/figures/findings-estimators.png.
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import pandas as pd
import torch
from noiseshift.analysis import drawing, plots
from rich.progress import Progress

import noiseshift as ns
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import sized
from noiseshift.studies.folders import Run

ROOT = Path(__file__).parent.parent
MATRIX = {
    "fashion-sit": ("euler:10", "euler:20", "heun:10", "em:20", "em:50"),
    "fashion-ddpm": ("ddim:20", "ddpm:20", "ddpm:50"),
}
CHEAP = {"network": None, "residual": None, "constant-pixel": None}
ALL = {**CHEAP, "fokker-planck": 16, "score-mixture": 16}
"""All five estimators; the two that call the network dozens of times per state read 16 samples."""

FIVE = ("em:20", "ddpm:20")
"""Solvers that all five read."""
PANELS = {
    "flow model, ODE": ("fashion-sit", ("euler:10", "euler:20", "heun:10")),
    "flow model, SDE": ("fashion-sit", ("em:20", "em:50")),
    "DDPM model": ("fashion-ddpm", ("ddim:20", "ddpm:20", "ddpm:50")),
}


def folder_of(out: Path, checkpoint: str, solver: str) -> Path:
    return out / f"{checkpoint}-{solver.replace(':', '-')}"


def measure_all(out: Path, samples: int, names: tuple[str, ...]) -> None:
    data = ns.data.reference()
    with Progress() as bar:
        for name in names:
            checkpoint = ns.load(name)
            for solver in bar.track(MATRIX[name], description=name):
                folder = folder_of(out, name, solver)
                if folder.exists():
                    continue
                estimators = ALL if solver in FIVE else CHEAP
                protocol = ns.Protocol(ns.solver(solver), samples, estimators, points=8, controls=True)
                ns.run(checkpoint, protocol, data).save(folder)


def loaded(out: Path) -> dict[tuple[str, str], Run]:
    return {(name, solver): Run.load(folder_of(out, name, solver)) for name in MATRIX for solver in MATRIX[name]}


def table(runs: dict[tuple[str, str], Run]) -> pd.DataFrame:
    """A row a run and estimator: the test over all levels, how large the shift is, and where it is largest."""
    rows = []
    for (name, solver), run in runs.items():
        for estimator, report in run.reports.items():
            rows.append(
                {"checkpoint": name, "solver": solver, "estimator": estimator, "samples": len(report.sampled)}
                | {"run p": run.answer.p.get(estimator)}
                | row_of(report)
            )
    return pd.DataFrame(rows)


def row_of(report: ShiftReport) -> dict[str, object]:
    """What one estimator read: levels that are significant at once, the rms δ, and the largest δ with its band."""
    read = report.table().query("shift.notna()")
    if not len(read):
        return {"levels": 0}
    outside = (read.band_low > 0) | (read.band_high < 0)
    largest = read.loc[read["shift"].abs().idxmax()]
    size = sized(read["shift"], read.low, read.high)
    return {
        "levels": len(read),
        "significant": int(outside.sum()),
        "positive": int((read["shift"][outside] > 0).sum()),
        "rms": size.value,
        "rms low": size.low,
        "rms high": size.high,
        "largest δ": largest["shift"],
        "band low": largest.band_low,
        "band high": largest.band_high,
        "at t": largest.t,
        "median floor": read.floor.median(),
    }


def shares(runs: dict[tuple[str, str], Run]) -> pd.DataFrame:
    """Whose the shift is, by the network estimator: step refinement, the exact model, and the verdict of both."""
    kept = []
    for (name, solver), run in runs.items():
        assert run.controls is not None
        rows = run.controls.shares.query("estimator == 'network'")
        kept.append(rows.drop(columns="estimator").assign(checkpoint=name, solver=solver))
    frame = pd.concat(kept, ignore_index=True)
    return frame[["checkpoint", "solver", *(c for c in frame.columns if c not in ("checkpoint", "solver"))]]


def figures(runs: dict[tuple[str, str], Run], into: Path) -> None:
    """δ(t) by the network estimator for every solver; and all five estimators side by side."""
    with drawing.style("cvpr-wide"):
        figure, axes = plt.subplots(1, len(PANELS), figsize=(6.875, 2.8), sharex=True)
        for ax, (title, (name, solvers)) in zip(axes, PANELS.items(), strict=True):
            plots.plot_shift({solver: runs[name, solver].reports["network"] for solver in solvers}, ax=ax)
            ax.set_title(title, fontsize=8)
            ax.legend(fontsize=6)
            ax.set_xlabel("conditioning time t")
        for ax in axes[1:]:
            ax.set_ylabel("")
        figure.savefig(into / "findings-solvers.png", dpi=200)
        plt.close(figure)
        figure, axes = plt.subplots(1, len(FIVE), figsize=(6.875, 2.8), sharex=True)
        for ax, solver in zip(axes, FIVE, strict=True):
            name = next(name for name in MATRIX if solver in MATRIX[name])
            plots.plot_shift(runs[name, solver].reports, ax=ax)
            ax.set_title(f"{name}, {solver}", fontsize=8)
            ax.get_legend().remove()
            ax.set_xlabel("conditioning time t")
        for ax in axes[1:]:
            ax.set_ylabel("")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=6)
        figure.savefig(into / "findings-estimators.png", dpi=200)
        plt.close(figure)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/findings"), show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--checkpoint", "names", multiple=True, type=click.Choice(list(MATRIX)), default=list(MATRIX))
@click.option("--threads", default=1, show_default=True)
def main(out: Path, samples: int, names: tuple[str, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    measure_all(out, samples, names)
    if not all(folder_of(out, name, solver).exists() for name in MATRIX for solver in MATRIX[name]):
        return
    runs = loaded(out)
    found = table(runs)
    found.to_csv(ROOT / "docs" / "data" / "findings.csv", index=False, float_format="%.6g")
    shares(runs).to_csv(ROOT / "docs" / "data" / "findings-shares.csv", index=False, float_format="%.6g")
    click.echo(found.round(4).to_string(index=False))
    figures(runs, ROOT / "docs" / "figures")


if __name__ == "__main__":
    main()
