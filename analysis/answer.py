"""A run's answer in three lines of plain words: what was found, whose it is, and whether to believe it.

Every number is read off the report's tables. When a control failed, that is the first thing said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from noiseshift.shift.report import ShiftReport
from noiseshift.studies.folders import Run

Verdict = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Answer:
    """Three lines, the controls' verdict, and the estimator that the first two lines are read by (None: all blind)."""

    lines: tuple[str, str, str]
    verdict: Verdict
    estimator: str | None


def answer(run: Run) -> Answer:
    """The answer of a run, by its first estimator that could read anything."""
    verdict = controls_verdict(run)
    name = next((n for n, r in run.reports.items() if r.table()["shift"].notna().any()), None)
    if name is None:
        told = len(next(iter(run.reports.values())).times)
        found = f"Nothing was measured: no estimator could read the level at any of the {told} levels (slope not within ½ … 2)."
        lines = found, "So nothing is known of the solver's or the network's share.", _controls(run, verdict)
    else:
        lines = (
            _finding(run, name),
            f"{_share(run, name)} {_content(run.reports[name])}".strip(),
            f"{_agreement(run, name)} {_controls(run, verdict)}".strip(),
        )
    if verdict == "failed":
        lines = f"{_failure(run)} {lines[0]}", *lines[1:]
    return Answer(lines, verdict, name)


def controls_verdict(run: Run) -> Verdict:
    """Whether the controls that judge (null, level) were run, and whether every one of them passed."""
    judged = [check.passed for check in run.controls.checks if check.passed is not None] if run.controls else []
    return "not run" if not judged else "passed" if all(judged) else "failed"


def at(value: float) -> str:
    """A told level, as short as it can be told apart."""
    return f"t = {value:.3g}" if value < 0.995 else f"t = {value:.4f}"


def delta(value: float) -> str:
    """A signed shift in t."""
    return f"{value:+.4f}".replace("-", "−")


def _range(row: pd.Series, value: str = "shift") -> str:
    return f"{delta(row[value])} (95 % {delta(row.low)} … {delta(row.high)})"


def _plural(count: int, word: str = "level") -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def worst(table: pd.DataFrame) -> pd.Series:
    """The row of the largest |δ|, among resolved ones if there are any."""
    rows = table[table.resolved] if table.resolved.any() else table[table["shift"].notna()]
    return rows.loc[rows["shift"].abs().idxmax()]


def _finding(run: Run, name: str) -> str:
    table = run.reports[name].table()
    read, about = table[table["shift"].notna()], run.manifest
    up, down = int((read.resolved & (read["shift"] > 0)).sum()), int((read.resolved & (read["shift"] < 0)).sum())
    guided = " with guidance" if about.get("guidance") else ""
    states = f"the states of {about['checkpoint']['name']} under {about['sampler']}{guided}"
    where = f"Between {at(read.t.max())} and {read.t.min():.3g}" if len(read) > 1 else f"At {at(read.t.max())}"
    top = worst(table)
    if not up + down:
        text = (
            f"{where} no noise shift is resolved in {states}: at all of {_plural(len(read))} δ is under the detection "
            f"floor ({read.floor.min():.4f} to {read.floor.max():.4f} in t), as read by {name}."
        )
    elif up and down:
        text = (
            f"{where} {states} are noisier than the network is told at {up} and cleaner at {down} of {_plural(len(read))}; "
            f"the largest shift, read by {name}, is {_range(top)} in t at {at(top.t)}."
        )
    else:
        side = "noisier" if up else "cleaner"
        text = (
            f"{where} {states} are {side} than the network is told at {up + down} of {_plural(len(read))}, by at most "
            f"{_range(top)} in t at {at(top.t)}, as read by {name}."
        )
    return " ".join(part for part in (text, _chance(read), _blind(table)) if part)


def _chance(read: pd.DataFrame) -> str:
    """A caveat where as few levels are resolved, and as barely, as chance resolves."""
    seen = read[read.resolved]
    limit = int(stats.binom.ppf(0.95, len(read), 0.05))
    if not 0 < len(seen) <= limit or (seen["shift"].abs() > 2 * seen.floor).any():
        return ""
    return (
        f"That is weak evidence: chance alone calls up to {limit} of {_plural(len(read))} a shift, just over the floor."
    )


def _blind(table: pd.DataFrame) -> str:
    blind = int(table["shift"].isna().sum())
    return f"At {_plural(blind, 'further level')} nothing can be read (slope not within ½ … 2)." if blind else ""


def _share(run: Run, name: str) -> str:
    """What an exact model through the same solver shows, and what is left for the network."""
    if run.controls is None or name not in run.controls.solver:
        return "Whose it is, the solver's or the network's, was not measured (run with --controls)."
    total, alone = run.reports[name], run.controls.solver[name]
    table, solver, share = total.table(), alone.table(), (total - alone).table()
    seen = int(share.resolved.sum())
    if not table.resolved.any():
        if not seen and not solver.resolved.any():
            return "Neither an exact model through the same solver nor the network's share shows a resolved shift."
        return (
            f"An exact model through the same solver has a resolved shift at {int(solver.resolved.sum())} of "
            f"{_plural(len(share))}; the difference, the network's share, is resolved at {seen}."
        )
    k = worst(table).name
    row, alone_row, top = share.loc[k], solver.loc[k], table.loc[k]
    if pd.isna(alone_row["shift"]):
        return f"At {at(top.t)} the exact model through the same solver could not be read."
    drift = f"An exact model through the same solver shifts by {delta(alone_row['shift'])} there"
    if not alone_row.resolved:
        drift += " (not resolved)"
    if not row.resolved:
        return f"{drift}: no share of the network is resolved."
    if not alone_row.resolved:
        whose = "what is resolved is the network's"
    elif np.sign(row.difference) != np.sign(alone_row["shift"]):
        whose = "the two work against each other"
    else:
        parts = np.array([row.low, row.high]) / top["shift"]  # the interval of the network's part of the whole
        whose = "most of it is the solver's" if parts.max() < 0.5 else "most of it is the network's"
        if parts.min() < 0.5 < parts.max():
            whose = "which of the two is larger is open"
    return f"{drift}, which leaves {_range(row, 'difference')} for the network: {whose}."


def _content(report: ShiftReport) -> str:
    """What becomes of the shift when the baseline is the run's own finals in place of real images."""
    table = report.table()
    if report.content is None:
        return "There is no content control."
    seen = table[table.resolved]
    if seen.empty:
        count = int(((table.content_low > 0) | (table.content_high < 0)).sum())
        read = int(table.content_shift.notna().sum())
        return f"Against the run's own finals δ differs from 0 at {count} of {_plural(read)}."
    flips = seen[np.sign(seen["shift"]) != np.sign(seen.content_shift)]
    if flips.empty:
        return "Against the run's own finals the sign is the same wherever a shift is resolved."
    bound = float(np.nanmax(flips[["shift", "content_shift"]].abs().to_numpy()))
    where = ", ".join(map(at, flips.t))
    return (
        f"The content control flips the sign at {len(flips)} of {_plural(len(seen), 'resolved level')} ({where}): there only "
        f"a bound holds, |δ| ≤ {bound:.4f}."
    )


def _agreement(run: Run, name: str) -> str:
    """Whether other estimators' 95 % intervals meet the first one's at every level that both can read."""
    others = {n: r.table() for n, r in run.reports.items() if n != name and r.table()["shift"].notna().any()}
    if not others:
        return (
            "Only one estimator could read the run, so nothing confirms it."
            if len(run.reports) > 1
            else ("One estimator read the run, so nothing confirms it.")
        )
    mine, parts = run.reports[name].table(), []
    for other, theirs in others.items():
        apart = (theirs.low > mine.high) | (theirs.high < mine.low)
        if not apart.any():
            continue
        opposite = apart & mine.resolved & theirs.resolved & (np.sign(theirs["shift"]) != np.sign(mine["shift"]))
        rows = opposite if opposite.any() else apart
        k = (theirs["shift"] - mine["shift"]).abs().where(rows).idxmax()
        kind = "the opposite sign" if opposite.any() else "another size"
        parts.append(
            f"{other} reads {kind} at {int(rows.sum())} of {_plural(int((mine['shift'] + theirs['shift']).notna().sum()))} "
            f"(at {at(mine.t[k])} {delta(theirs['shift'][k])} against {delta(mine['shift'][k])})"
        )
    if not parts:
        return f"All {len(others) + 1} estimators agree within their 95 % intervals."
    return f"The estimators disagree: {'; '.join(parts)}."


def _controls(run: Run, verdict: Verdict) -> str:
    if verdict == "failed":
        return "Not all controls passed."
    if verdict == "passed":
        return "All controls passed."
    return "No control was run, so the instrument is unchecked here (run with --controls)."


def _failure(run: Run) -> str:
    assert run.controls is not None
    failed = [check for check in run.controls.checks if check.passed is False]
    names = " and ".join(check.name for check in failed)
    return (
        f"The instrument failed its own {names} control{'s' if len(failed) > 1 else ''}: do not use the numbers below "
        f"({'; '.join(check.sentence for check in failed)})."
    )
