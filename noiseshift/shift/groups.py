"""The shift by groups of samples: classes, prompts, or what a table says of them.

Each group's sampling states are compared with real ones of the same group, where there are enough of them; else with all. The
slope of the reading is that of all real states. Intervals at once hold over all groups and levels: groups are other samples, so
their errors are independent; where they share real states, taking them as independent makes the intervals wider, not narrower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from noiseshift.estimators.instrument import Array
from noiseshift.shift.inference import Ratio, largest
from noiseshift.shift.parts import part_columns
from noiseshift.shift.report import ShiftReport

LEAST = 8
"""Fewest samples of a group; and fewest real states, below which a group is compared with all."""

ALL = "all of "


@dataclass(frozen=True)
class Groups:
    """Which group each state is of.

    Attributes:
        kind: what groups are, such as "class".
        sampled: (N,) the group of each sample.
        real: (M,) of each real state that calibrates, or None where it is not known.
    """

    kind: str
    sampled: Sequence[str]
    real: Sequence[str] | None = None

    def __post_init__(self) -> None:
        names, counts = np.unique(np.array(self.sampled), return_counts=True)
        if counts.min() < LEAST:
            few = names[counts.argmin()]
            raise ValueError(
                f"the {self.kind} {few} has {counts.min()} samples of {len(self.sampled)}: by group, each needs at least "
                f"{LEAST}; ask for more --samples, or for coarser groups"
            )


def measure_groups(reports: Mapping[str, ShiftReport], groups: Groups, level: float = 0.95) -> pd.DataFrame:
    """The shift by group, as each estimator that read enough of every group reads it.

    Args:
        reports: of one run, by estimator.
        groups: of its samples, in order.
        level: of the intervals.

    Returns:
        A row an estimator, group and step, with the columns `shift.parts.PARTS`.
    """
    tables = [_of_estimator(report, groups, level) for report in reports.values() if _enough(report, groups)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _enough(report: ShiftReport, groups: Groups) -> bool:
    read = list(groups.sampled[: len(report.sampled)])
    return all(read.count(name) >= LEAST for name in set(groups.sampled))


def _of_estimator(report: ShiftReport, groups: Groups, level: float) -> pd.DataFrame:
    names = np.array(groups.sampled[: len(report.sampled)])
    ratios = {}
    against = {}
    for seed, name in enumerate(dict.fromkeys(groups.sampled)):
        real, against[name] = _real(report, groups, name)
        sampled = report.sampled.t[names == name]
        # Seeds of their own: other groups are other samples.
        ratios[name] = Ratio.of_difference(sampled, real, report.calibration.slopes, seed=1000 + 2 * seed)
    where = {name: ratio.readable(report.times) for name, ratio in ratios.items()}
    read = [ratio.at(where[name]) for name, ratio in ratios.items()]
    test = largest([ratio.readings for ratio in read], [ratio.error for ratio in read], level)
    frames = []
    for name, ratio in ratios.items():
        frame = part_columns(ratio, where[name], test.critical, level)
        frame.insert(0, "kind", groups.kind)
        frame.insert(1, "part", name)
        frame.insert(2, "estimator", report.estimator)
        frame.insert(3, "step", report.steps)
        frame.insert(4, "t", report.times)
        frames.append(frame.assign(p=test.p, n=int((names == name).sum()), against=against[name]))
    return pd.concat(frames, ignore_index=True)


def _real(report: ShiftReport, groups: Groups, name: str) -> tuple[Array, str]:
    """Readings of the real states that a group is compared with, and what they are."""
    rows = report.calibration.real.t
    if groups.real is not None:
        own = rows[np.array(groups.real[: len(rows)]) == name]
        if len(own) >= LEAST:
            return own, report.baseline
    return rows, ALL + report.baseline
