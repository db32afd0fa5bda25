"""The instrument checks itself: what must read zero, what must read a known shift, and what the solver does alone.

*Null*: held-out real states in place of a sampler must come out unresolved at the nominal rate.
*Level*: real states whose level is off by a known amount must be read within their interval.
*Exact model*: the exact denoiser of real data through the same solver shows the shift that no network causes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from noiseshift.diffusion.noise import NULL, POSITIVE, generators, normal
from noiseshift.estimators.calibration import Array, Calibration, Readings, forward_noise
from noiseshift.estimators.posterior import Estimator
from noiseshift.shift.report import ShiftReport, readable


@dataclass(frozen=True)
class Check:
    """One control's outcome in words; `passed` is None when it says something without judging."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class Controls:
    """What the controls of a run found. `null` and `level` have a row an estimator and step; `solver` holds the reports
    of the exact model, paired with the run's own by initial noise and class."""

    checks: tuple[Check, ...] = ()
    null: pd.DataFrame = field(default_factory=pd.DataFrame)
    level: pd.DataFrame = field(default_factory=pd.DataFrame)
    solver: Mapping[str, ShiftReport] = field(default_factory=dict)


def real_report(
    name: str,
    estimator: Estimator,
    calibration: Calibration,
    data: Tensor,
    *,
    cond: Tensor | None = None,
    offset: Array | float = 0.0,
    seed: int = 0,
    stream: int = NULL,
) -> ShiftReport:
    """Real data (N, …) noised to t + offset in place of a sampler that is told t: offset 0 is the null control."""
    sources = generators(range(len(data)), seed=seed, stream=stream)
    levels = torch.tensor(calibration.times + offset)
    columns = []
    for k, told in enumerate(torch.tensor(calibration.times)):
        eps = normal(sources, data.shape[1:])
        columns.append(forward_noise(data, cond, estimator, level=levels[k], told=told, index=k, eps=eps))
    steps = np.arange(len(levels))
    return ShiftReport(name, estimator.schedule, steps, calibration.times, Readings.stack(columns), calibration)


def null_control(
    estimators: Mapping[str, Estimator],
    calibrations: Mapping[str, Calibration],
    data: Tensor,
    cond: Tensor | None = None,
    *,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> tuple[pd.DataFrame, Check]:
    """Held-out data that took no part in the calibration, forward-noised: nothing may be resolved beyond chance. An
    estimator with a limit reads that many rows."""
    frames = []
    for name, estimator in estimators.items():
        x0, labels = _rows(data, cond, limits, name)
        report = real_report(name, estimator, calibrations[name], x0, cond=labels, seed=seed)
        frames.append(report.table().assign(estimator=name))
    frame = pd.concat(frames, ignore_index=True)
    usable = frame[readable(frame.slope)]
    alarms, cells = int(usable.resolved.sum()), len(usable)
    limit = int(stats.binom.ppf(0.995, cells, 0.05)) if cells else 0
    sentence = f"{alarms} of {cells} readings of held-out real states are called a shift (by chance up to {limit})"
    return frame, Check("null", alarms <= limit, sentence)


def level_control(
    estimators: Mapping[str, Estimator],
    calibrations: Mapping[str, Calibration],
    data: Tensor,
    cond: Tensor | None = None,
    *,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> tuple[pd.DataFrame, Check]:
    """Held-out real states truly at t + min(t, 1 - t)/16, told t: the known shift must lie in its 95 % interval. An
    estimator with a limit reads that many rows."""
    frames = []
    for name, estimator in estimators.items():
        x0, labels = _rows(data, cond, limits, name)
        times = calibrations[name].times
        offset = np.minimum(times, 1 - times) / 16
        report = real_report(
            name, estimator, calibrations[name], x0, cond=labels, offset=offset, seed=seed, stream=POSITIVE
        )
        table = report.table().assign(estimator=name, expected=offset)
        frames.append(table.assign(covered=(table.low <= offset) & (offset <= table.high)))
    frame = pd.concat(frames, ignore_index=True)
    usable = frame[readable(frame.slope)]
    covered, cells = int(usable.covered.sum()), len(usable)
    least = int(stats.binom.ppf(0.005, cells, 0.95)) if cells else 0
    error = float((usable["shift"] / usable.expected - 1).abs().median()) if cells else float("nan")
    sentence = (
        f"{covered} of {cells} known shifts lie in their 95 % interval (at least {least} expected); "
        f"median error {100 * error:.0f} % of the shift"
    )
    return frame, Check("level", covered >= least, sentence)


def _rows(
    data: Tensor, cond: Tensor | None, limits: Mapping[str, int] | None, name: str
) -> tuple[Tensor, Tensor | None]:
    rows = (limits or {}).get(name, len(data))
    return data[:rows], None if cond is None else cond[:rows]


def solver_check(reports: Mapping[str, ShiftReport], solver: Mapping[str, ShiftReport]) -> Check:
    """What the solver makes with an exact model, beside the whole shift: a finding, not a verdict."""
    name = next(iter(reports))
    total, alone = reports[name].table()["shift"], solver[name].table()["shift"]
    model = (reports[name] - solver[name]).table()
    sentence = (
        f"read by {name}, rms over steps: total {_rms(total):.4f}, exact model through the same solver {_rms(alone):.4f}; "
        f"the difference, the network's share, is resolved at {int(model.resolved.sum())} of {len(model)} steps"
    )
    return Check("exact model", None, sentence)


def content_check(reports: Mapping[str, ShiftReport]) -> Check:
    """How much of the shift is what generated content alone does to the estimator."""
    name, report = next(iter(reports.items()))
    table = report.table()
    if report.content is None:
        return Check("content", None, "not measured")
    flips = int((np.sign(table["shift"]) != np.sign(table.content_shift)).where(table["shift"].notna(), False).sum())
    sentence = (
        f"read by {name}, rms over steps: against real data {_rms(table['shift']):.4f}, against the run's own finals "
        f"{_rms(table.content_shift):.4f}; the sign differs at {flips} of {len(table)} steps"
    )
    return Check("content", None, sentence)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean()))
