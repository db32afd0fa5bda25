"""The instrument checks itself: what must read zero, what must read a known shift, and what the solver does alone.

*Null*: held-out real states in place of a sampler must come out unresolved at the nominal rate.
*Level*: real states whose level is off by a known amount must be read within their interval.
*Solver's share*: finer steps of the same network, and an exact model through the same solver; see `shares`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from noiseshift.diffusion.noise import NULL, POSITIVE, generators, normal
from noiseshift.estimators.instrument import OWN, Array, Instrument, Instruments, Readings, forward_noise, readable
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import content_signs, rms_in_words

UNREAD = "no state could be read, so nothing was checked"
"""Of a control that judges, where no estimator can read any level."""
_OUTCOMES = {True: "passed", False: "FAILED", None: "note"}


@dataclass(frozen=True)
class Check:
    """One control's outcome in words.

    Attributes:
        name: of the control.
        passed: None where it says something without judging.
        sentence: what it found.
    """

    name: str
    passed: bool | None
    sentence: str

    def __str__(self) -> str:
        return f"{_OUTCOMES[self.passed]:6s} {self.name}: {self.sentence}"


@dataclass(frozen=True)
class Controls:
    """What the controls of a run found.

    Attributes:
        checks: each control's outcome in words.
        null: a row an estimator and step, of real states in place of a sampler.
        level: the same, of real states at a level that is off by a known amount.
        solver: reports of an exact model through the same solver, calibrated on its own data.
        shares: the solver's and the network's part of the shift, by estimator and level; see `shift.shares`. Empty in runs of
            versions before 0.2.
    """

    checks: tuple[Check, ...] = ()
    null: pd.DataFrame = field(default_factory=pd.DataFrame)
    level: pd.DataFrame = field(default_factory=pd.DataFrame)
    solver: Mapping[str, ShiftReport] = field(default_factory=dict)
    shares: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))

    def __repr__(self) -> str:
        return f"Controls({', '.join(f'{check.name} {_OUTCOMES[check.passed]}' for check in self.checks)})"


def real_report(
    name: str,
    instrument: Instrument,
    data: Tensor,
    *,
    cond: Tensor | None = None,
    offset: Array | float = 0.0,
    seed: int = 0,
    stream: int = NULL,
) -> ShiftReport:
    """Real data in place of a sampler: states truly at t + offset, read as if the network were conditioned on t.

    Args:
        name: What the report is called.
        instrument: What reads them; its limit says how many of the rows.
        data: (N, …) real samples that took no part in the calibration.
        cond: (N,) their classes, or None.
        offset: How far the states' level is off, a number or (K,); 0 is the null control.
        seed: Seeds the noise.
        stream: Keeps it apart from a run's other noise.
    """
    rows = instrument.rows(0, len(data))
    x0 = data[:rows]
    labels = None if cond is None else cond[:rows]
    sources = generators(range(rows), seed=seed, stream=stream)
    levels = torch.tensor(instrument.times + offset)
    columns = []
    for k, t_cond in enumerate(torch.tensor(instrument.times)):
        eps = normal(sources, x0.shape[1:])
        columns.append(
            forward_noise(x0, labels, instrument.estimator, level=levels[k], t_cond=t_cond, index=k, eps=eps)
        )
    return ShiftReport(
        name,
        instrument.estimator.schedule,
        np.arange(len(levels)),
        instrument.times,
        Readings.stack(columns),
        instrument.calibration,
    )


def null_control(
    instruments: Instruments, data: Tensor, cond: Tensor | None = None, *, seed: int = 0
) -> tuple[pd.DataFrame, Check]:
    """Held-out real states in place of a sampler's: nothing may be resolved beyond chance.

    Args:
        instruments: what reads them, by name.
        data: (N, …) real samples that took no part in the calibration.
        cond: (N,) their classes, or None.
        seed: of the noise.

    Returns:
        A row per estimator and step, and the outcome.
    """
    frame = _tables(instruments, lambda name, each: real_report(name, each, data, cond=cond, seed=seed))
    known = frame.pop("slope_known")
    usable = frame[known]
    if usable.empty:
        return frame, Check("null", None, UNREAD)
    # A reading of real states so far off that it is no level is the worst of false alarms.
    alarms, cells = int((usable.resolved | usable["shift"].isna()).sum()), len(usable)
    limit = int(stats.binom.ppf(0.995, cells, 0.05))
    sentence = f"{alarms} of {cells} readings of {_kind(instruments)} are called a shift (by chance up to {limit})"
    return frame, Check("null", alarms <= limit, sentence)


def level_control(
    instruments: Instruments, data: Tensor, cond: Tensor | None = None, *, seed: int = 0
) -> tuple[pd.DataFrame, Check]:
    """Held-out real states truly at t + min(t, 1 - t)/16, read at t: the known shift must lie in its 95 % interval.

    Args:
        instruments: what reads them, by name.
        data: (N, …) real samples that took no part in the calibration.
        cond: (N,) their classes, or None.
        seed: of the noise.

    Returns:
        A row per estimator and step, and the outcome.
    """
    frame = _tables(
        instruments,
        lambda name, each: real_report(
            name, each, data, cond=cond, offset=_offset(each.times), seed=seed, stream=POSITIVE
        ),
    )
    frame["expected"] = _offset(frame.t.to_numpy())
    frame["covered"] = (frame.low <= frame.expected) & (frame.expected <= frame.high)
    known = frame.pop("slope_known")
    usable = frame[known]
    if usable.empty:
        return frame, Check("level", None, UNREAD)
    covered, cells = int(usable.covered.sum()), len(usable)
    least = int(stats.binom.ppf(0.005, cells, 0.95))
    error = float((usable["shift"] / usable.expected - 1).abs().median())
    sentence = (
        f"{covered} of {cells} known shifts of {_kind(instruments)} lie in their 95 % interval (at least {least} expected); "
        f"median error {100 * error:.0f} % of the shift"
    )
    return frame, Check("level", covered >= least, sentence)


def _kind(instruments: Instruments) -> str:
    """What the null and the level control read, in words."""
    own = any(each.calibration.baseline == OWN for each in instruments.values())
    return "own final samples, re-noised, not data," if own else "held-out real states"


def _tables(instruments: Instruments, report: Callable[[str, Instrument], ShiftReport]) -> pd.DataFrame:
    """The reports' tables, one under another, with columns `estimator` and `slope_known`: whether the estimator reads there."""
    tables = []
    for name, each in instruments.items():
        found = report(name, each)
        known = readable(each.calibration.slope) & found.ratio().slope_known()
        tables.append(found.table().assign(estimator=name, slope_known=known))
    return pd.concat(tables, ignore_index=True)


def _offset(times: Array) -> Array:
    return np.minimum(times, 1 - times) / 16


def share_check(shares: pd.DataFrame) -> Check:
    """Whose the shift is, by step refinement and by an exact model: a finding, not a verdict."""
    name = shares.estimator.iloc[0]
    rows = shares[shares.estimator == name]
    if rows[["solver", "exact_solver"]].isna().all(axis=None):
        return Check("solver's share", None, UNREAD)
    by = f"by step refinement solver {_size(rows, 'solver')}, network {_size(rows, 'network')}; "
    if rows.solver.isna().all():
        by = "this solver's steps cannot be refined, so there is no split by refinement; "
    found = " and ".join(
        f"{int(rows.whose.isin([part, 'both']).sum())} of {len(rows)} levels to the {part}" for part in PARTS
    )
    sentence = (
        f"read by {name}, rms over steps: {by}by an exact model solver {_size(rows, 'exact_solver')}, network "
        f"{_size(rows, 'exact_network')}; both experiments give {found}"
    )
    return Check("solver's share", None, sentence)


PARTS = ("solver", "network")


def content_check(reports: Mapping[str, ShiftReport]) -> Check:
    """How the shift changes when final samples, re-noised, are what it is measured against."""
    name, report = next(iter(reports.items()))
    if report.content is None:
        return Check("content", None, "not measured")
    table = report.table()
    if table["shift"].isna().all():
        return Check("content", None, UNREAD)
    flips, unsure = content_signs(table)
    data = rms_in_words(table["shift"], table.low, table.high)
    content = rms_in_words(table.content_shift, table.content_low, table.content_high)
    sentence = (
        f"read by {name}, rms over steps: against real data {data}, against final samples, re-noised, {content}; of "
        f"{int(table.resolved.sum())} resolved steps {len(flips)} have the opposite sign "
        f"there and {len(unsure)} an interval that holds 0"
    )
    return Check("content", None, sentence)


def _size(rows: pd.DataFrame, part: str) -> str:
    return rms_in_words(rows[part], rows[f"{part}_low"], rows[f"{part}_high"])
