"""A run's answer in three lines of plain words: what was found, whose it is, and whether to believe it.

Whether there is any shift is said by the run's one test over all levels and estimators (`Run.answer`); levels are counted after
it. Every number is read off the report's tables. When a control failed, that is the first thing said. Terminal and pages print
these lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from noiseshift.analysis.baseline import opened
from noiseshift.analysis.checks import headed
from noiseshift.analysis.phrases import NOT_READABLE, at, chance, delta, estimated, plural

from noiseshift.estimators.instrument import DATA
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import content_signs, disagreement
from noiseshift.studies.folders import Run

Verdict = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Answer:
    """Three lines, the controls' verdict, and the estimator that the first two lines are read by (None: none could)."""

    lines: tuple[str, str, str]
    verdict: Verdict
    estimator: str | None


def answer(run: Run) -> Answer:
    """The answer of a run, by its first estimator that could read anything."""
    verdict = controls_verdict(run)
    name = next((n for n, r in run.reports.items() if r.table()["shift"].notna().any()), None)
    if name is None:
        levels = len(next(iter(run.reports.values())).times)
        found = (
            f"Nothing was measured: no estimator could read the level at any of the {levels} levels ({NOT_READABLE})."
        )
        found += _too_few(run)
        lines = found, "So nothing is known of the solver's or the network's share.", _controls(run, verdict)
    else:
        lines = (
            opened(run.baseline, _finding(run, name)),
            opened(run.baseline, f"{_share(run, name)} {_content(run, run.reports[name])}".strip()),
            f"{_agreement(run, name)} {_controls(run, verdict)}".strip(),
        )
    if verdict == "failed":
        lines = f"{_failure(run)} {lines[0]}", *lines[1:]
    return Answer((headed(run.preflight, lines[0]), *lines[1:]), verdict, name)


FEW = 64
"""Numbers of a state below which one residual says little of its level."""


def _too_few(run: Run) -> str:
    """What to read states of few numbers by, where the residual could not read them."""
    size = math.prod(run.pictures.shape[1:])
    if size >= FEW or "residual" not in run.reports or "fokker-planck" in run.reports:
        return ""
    return f" A state of {size} numbers is small for a residual: take --estimator fokker-planck."


def controls_verdict(run: Run) -> Verdict:
    """Whether the controls that judge (null, level) were run, and whether every one of them passed."""
    judged = [check.passed for check in run.controls.checks if check.passed is not None] if run.controls else []
    return "not run" if not judged else "passed" if all(judged) else "failed"


def worst(table: pd.DataFrame) -> pd.Series:
    """The row of the largest |δ|, among resolved ones if there are any."""
    rows = table[table.resolved] if table.resolved.any() else table[table["shift"].notna()]
    return rows.loc[rows["shift"].abs().idxmax()]


def _finding(run: Run, name: str) -> str:
    table = run.reports[name].table()
    read = table[table["shift"].notna()]
    about = run.manifest
    guided = " with guidance" if about.get("guidance") else ""
    states = f"the states of {about['checkpoint']['name']} under {about['sampler']}{guided}"
    where = f"Between {at(read.t.max())} and {read.t.min():.3g}" if len(read) > 1 else f"At {at(read.t.max())}"
    sentence = (
        _shifted(run, name, read, where, states)
        if run.answer.significant
        else _unshifted(run, name, read, where, states)
    )
    return " ".join(part for part in (sentence, _unread(table)) if part)


def _together(run: Run, read: pd.DataFrame) -> str:
    """What the run's test was over."""
    count = len(run.answer.joint)
    estimators = "" if count < 2 else f" and {count} estimators"
    return f"{plural(len(read))}{estimators} together" if len(read) > 1 or count > 1 else "this level"


def _unshifted(run: Run, name: str, read: pd.DataFrame, where: str, states: str) -> str:
    bound = float(read[["band_low", "band_high"]].abs().to_numpy().max())
    text = (
        f"{where} no noise shift is significant at 95 % in {states} (over {_together(run, read)}, {chance(run.answer.run.p)}). "
        f"That is not zero: as read by {name}, |δ| is below {bound:.4f} in t at all of {plural(len(read))}."
    )
    alone = int(read.resolved.sum())
    if not alone:
        return text
    return f"{text} At {plural(alone)} an interval of its own leaves out 0, which chance does among so many."


def _shifted(run: Run, name: str, read: pd.DataFrame, where: str, states: str) -> str:
    up, down = int((read.resolved & (read["shift"] > 0)).sum()), int((read.resolved & (read["shift"] < 0)).sum())
    test = f"{chance(run.answer.run.p)} over {_together(run, read)}"
    top = worst(read)
    if not up + down:
        seen = [other for other, found in run.answer.estimators.items() if found.significant]
        by = f" by {' and '.join(seen)}" if seen else " over the estimators together"
        return (
            f"{where} a noise shift is significant at 95 % in {states}{by} ({test}); {name} reads none at any one of "
            f"{plural(len(read))}, the largest {estimated(top)} in t at {at(top.t)}."
        )
    if up and down:
        return (
            f"{where} {states} are noisier than their conditioning level at {up} and cleaner at {down} of "
            f"{plural(len(read))} ({test}); the largest shift, read by {name}, is {estimated(top)} in t at {at(top.t)}."
        )
    side = "noisier" if up else "cleaner"
    return (
        f"{where} {states} are {side} than their conditioning level at {up + down} of {plural(len(read))} ({test}), by at "
        f"most {estimated(top)} in t at {at(top.t)}, as read by {name}."
    )


def _unread(table: pd.DataFrame) -> str:
    unreadable = int(table["shift"].isna().sum())
    return f"At {plural(unreadable, 'further level')} nothing can be read ({NOT_READABLE})." if unreadable else ""


def _share(run: Run, name: str) -> str:
    """Whose the shift is: what finer steps of the same network take away, and what an exact model shows."""
    if run.controls is None or run.controls.shares.empty:
        return "Whose it is, the solver's or the network's, was not measured (run with --controls)."
    rows = run.controls.shares
    rows = rows[(rows.estimator == name) & rows.total.notna()]
    if rows.empty:
        return "Whose it is, the solver's or the network's, could not be read."
    # Where only one experiment could be read nothing can be said by both, however large the shift is there.
    both = rows[rows.solver.notna() & rows.exact_solver.notna()]
    readable = rows if both.empty else both
    row = readable.loc[readable.total.abs().idxmax()]
    return f"At {at(row.t)}, {_refined(row)}; {_exact(row)}: {_verdict(row)}.{_of_all(rows, both)}"


def _of_all(rows: pd.DataFrame, both: pd.DataFrame) -> str:
    """How many levels both experiments give to whom, where they are several."""
    if len(rows) < 2 or both.empty:
        return ""
    solver, network = (int(rows.whose.isin([whose, "both"]).sum()) for whose in ("solver", "network"))
    return f" Of {plural(len(rows))} both experiments give {solver} to the solver and {network} to the network."


def _refined(row: pd.Series) -> str:
    """What step refinement found at one level."""
    if pd.isna(row.solver):
        return "this solver's steps cannot be refined here"
    sentence = f"finer steps of the same network take away {_part(row, 'solver')} and leave {_part(row, 'network')}"
    return sentence if row.reached else f"{sentence} (the steps are too coarse for the solver's order: bounds)"


def _exact(row: pd.Series) -> str:
    if pd.isna(row.exact_solver):
        return "an exact model could not be read"
    return f"an exact model through the same solver shows {_part(row, 'exact_solver')}"


def _part(row: pd.Series, part: str) -> str:
    return f"{delta(row[part])} [{delta(row[f'{part}_low'])}, {delta(row[f'{part}_high'])}]"


def _verdict(row: pd.Series) -> str:
    verdicts = {
        "solver": "this much of it is the solver's, by both, and a part of the network's is not established",
        "network": "the network has a part in it, by both",
        "both": "the solver and the network both have a part in it, by both",
    }
    if pd.isna(row.solver) or pd.isna(row.exact_solver):
        return "one experiment alone does not say whose it is"
    return verdicts.get(row.whose, "the two do not agree on a part, so whose it is stays open")


def _content(run: Run, report: ShiftReport) -> str:
    """What becomes of the shift when the baseline is final samples, re-noised, in place of real images."""
    table = report.table()
    if report.baseline != DATA:
        return "A fault that the final samples share is not seen, and there is no content control: it would be the same baseline."
    if report.content is None:
        return "There is no content control."
    seen = table[table.resolved]
    if seen.empty:
        count = int(((table.content_low > 0) | (table.content_high < 0)).sum())
        read = int(table.content_shift.notna().sum())
        return f"Against {content_of(run)}, re-noised, 0 is outside the interval at {count} of {plural(read)}."
    flips, unsure = content_signs(seen)
    if flips.empty and unsure.empty:
        return f"Against {content_of(run)}, re-noised, the sign is the same wherever a level is resolved."
    return " ".join([_flipped(flips, len(seen)), _unsure(run, unsure, len(seen))]).strip()


def _flipped(flips: pd.DataFrame, seen: int) -> str:
    if flips.empty:
        return ""
    bound = float(flips[["low", "high", "content_low", "content_high"]].abs().to_numpy().max())
    where = ", ".join(map(at, flips.t))
    return (
        f"The content control has the opposite sign at {len(flips)} of {plural(seen, 'resolved level')} ({where}), both "
        f"intervals without 0: there only a bound holds, |δ| ≤ {bound:.4f}."
    )


def _unsure(run: Run, unsure: pd.DataFrame, seen: int) -> str:
    if unsure.empty:
        return ""
    return (
        f"Against {content_of(run)}, re-noised, the shift is not significant at {len(unsure)} of "
        f"{plural(seen, 'resolved level')}: what is read there may be their level or their content."
    )


def content_of(run: Run) -> str:
    """What the content control is against."""
    return str(run.manifest.get("content") or "the run's own final samples")


def _agreement(run: Run, name: str) -> str:
    """Whether the estimators' shifts differ, by one test over all pairs and levels."""
    test = run.answer.agreement
    joint = run.answer.joint
    if test is None:
        others = len(run.reports) - 1
        why = "One estimator read the run" if not others else "Only one estimator could read enough of the run"
        return f"{why}, so nothing was compared with it."
    if not test.significant:
        same = "They read the same states: agreement is no second finding."
        return f"No difference between the {len(joint)} estimators is significant ({chance(test.p)}). {same}"
    lead = name if name in joint else joint[0]
    tests = {other: disagreement([run.reports[lead], run.reports[other]]) for other in joint if other != lead}
    apart = [other for other, found in tests.items() if found.significant] or [min(tests, key=lambda n: tests[n].p)]
    parts = [_difference(run.reports[lead].table(), run.reports[other].table(), other) for other in apart]
    return f"The estimators disagree ({chance(test.p)}): {'; '.join(parts)}."


def _difference(mine: pd.DataFrame, theirs: pd.DataFrame, other: str) -> str:
    """Where two estimators are furthest apart, at opposite signs if they have them."""
    opposite = mine.resolved & theirs.resolved & (np.sign(theirs["shift"]) != np.sign(mine["shift"]))
    gap = (theirs["shift"] - mine["shift"]).abs()
    k = gap.where(opposite).idxmax() if opposite.any() else gap.idxmax()
    kind = "the opposite sign" if opposite.any() else "another size"
    return f"{other} reads {kind} (at {at(mine.t[k])} {delta(theirs['shift'][k])} against {delta(mine['shift'][k])})"


def _controls(run: Run, verdict: Verdict) -> str:
    if verdict == "failed":
        return "Not all controls passed."
    if verdict == "passed":
        return "All controls passed."
    if run.controls is not None and run.controls.checks:
        return "No control could be read, so the instrument is unchecked here."
    return "No control was run, so the instrument is unchecked here (run with --controls)."


def _failure(run: Run) -> str:
    assert run.controls is not None
    failed = [check for check in run.controls.checks if check.passed is False]
    names = " and ".join(check.name for check in failed)
    return (
        f"The instrument failed its own {names} control{'s' if len(failed) > 1 else ''}: do not use the numbers below "
        f"({'; '.join(check.sentence for check in failed)})."
    )
