"""Reports in files that pandas opens: `shift.parquet`, `posteriors.npz` and `report.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noiseshift.diffusion.schedules import Schedule, build, describe
from noiseshift.estimators.instrument import DATA, Array, Calibration, Readings
from noiseshift.reading import read_arrays, read_json, read_table, reading
from noiseshift.shift.report import ShiftReport
from noiseshift.writing import write_table

RUN = ("part of a run", "measure it again")
"""What a file of a run folder is, and what to do about a damaged one."""


def write_reports(reports: Mapping[str, ShiftReport], folder: Path) -> None:
    """`shift.parquet`: estimator, states (sampled, real, slope, content), row, step, t, t_hat, log_snr_hat; with
    `posteriors.npz` (mean posteriors) and `report.json` (schedule).

    Args:
        reports: by estimator, of one run.
        folder: one that is there.
    """
    frames = [_long(report, states, part) for report in reports.values() for states, part in _parts(report)]
    write_table(folder / "shift.parquet", pd.concat(frames, ignore_index=True))
    arrays: dict[str, Any] = {f"{name}/grid": report.calibration.grid for name, report in reports.items()}
    for report in reports.values():
        arrays |= {f"{report.estimator}/{states}": part.density for states, part in _parts(report) if states != "slope"}
    np.savez_compressed(folder / "posteriors.npz", **arrays)
    first = next(iter(reports.values()))
    about = {
        "schedule": describe(first.schedule),
        "estimators": list(reports),
        "baseline": first.calibration.baseline,
    }
    (folder / "report.json").write_text(json.dumps(about, indent=2))


def read_reports(folder: Path) -> dict[str, ShiftReport]:
    """What `write_reports` wrote. Raises FileNotFoundError when there is nothing of the kind."""
    if not (folder / "shift.parquet").exists():
        raise FileNotFoundError(f"no shift.parquet in {folder}: is it a folder that `noiseshift measure` wrote?")
    with reading(folder, *RUN):
        frame = read_table(folder / "shift.parquet", *RUN)
        about = read_json(folder / "report.json", *RUN)
        schedule = build(about["schedule"])
        densities = read_arrays(folder / "posteriors.npz", *RUN)
        baseline = about.get("baseline", DATA)
        if not isinstance(baseline, str):
            raise ValueError("its baseline is no word")
        if sorted(about["estimators"]) != sorted(frame.estimator.unique()):
            raise ValueError("its table is of other estimators than its report")
        return {
            name: _report(frame[frame.estimator == name], name, schedule, densities, baseline)
            for name in about["estimators"]
        }


def _parts(report: ShiftReport) -> list[tuple[str, Readings]]:
    calibration = report.calibration
    slope = Readings(calibration.slopes, calibration.slopes_log_snr, calibration.real.density)
    parts = [("sampled", report.sampled), ("real", calibration.real), ("slope", slope)]
    return parts + ([("content", report.content)] if report.content is not None else [])


def _long(report: ShiftReport, states: str, part: Readings) -> pd.DataFrame:
    n, k = part.t.shape
    return pd.DataFrame(
        {
            "estimator": report.estimator,
            "states": states,
            "row": np.repeat(np.arange(n), k),
            "step": np.tile(report.steps, n),
            "t": np.tile(report.times, n),
            "t_hat": part.t.reshape(-1),
            "log_snr_hat": part.log_snr.reshape(-1),
        }
    )


def _report(
    frame: pd.DataFrame, name: str, schedule: Schedule, densities: Mapping[str, Array], baseline: str
) -> ShiftReport:
    first = frame[(frame.states == "sampled") & (frame.row == 0)]
    times = first.t.to_numpy(dtype=float)
    if not ((times >= 0) & (times <= 1)).all() or not (np.diff(first.step) > 0).all():
        raise ValueError(f"{name} has times outside 0 … 1, or a step twice")
    parts = {}
    for states, rows in frame.groupby("states", sort=False):
        _check_order(rows, first)
        density = densities[f"{name}/{'real' if states == 'slope' else states}"]
        if density.shape != (len(first), len(densities[f"{name}/grid"])):
            raise ValueError(f"the posteriors of {name} are of other steps or levels")
        parts[states] = Readings(
            rows.t_hat.to_numpy(dtype=float).reshape(-1, len(first)),
            rows.log_snr_hat.to_numpy(dtype=float).reshape(-1, len(first)),
            density,
        )
    slope = parts["slope"]
    calibration = Calibration(times, densities[f"{name}/grid"], parts["real"], slope.t, slope.log_snr, baseline)
    return ShiftReport(
        name, schedule, first.step.to_numpy(dtype=int), times, parts["sampled"], calibration, parts.get("content")
    )


def _check_order(rows: pd.DataFrame, first: pd.DataFrame) -> None:
    """Refuse rows that do not lie as they were written: state by state, each at the same steps and times."""
    count = len(rows) // max(1, len(first))
    written = {
        "row": np.repeat(np.arange(count), len(first)),
        "step": np.tile(first.step, count),
        "t": np.tile(first.t, count),
    }
    if not all(np.array_equal(rows[column], values) for column, values in written.items()):
        raise ValueError("its rows were sorted, doubled or taken away")
