"""Which differences between runs are real: their intervals, p-values, and Holm's adjustment over all pairs.

Runs of one seed share initial noise and classes sample by sample, and calibrate on the same real images: their differences are
paired; others are not. p-values of all pairs are Holm's, so that a table of twenty pairs has one false difference in twenty
*tables*.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from noiseshift.data import to_float
from noiseshift.diffusion.schedules import describe
from noiseshift.evaluation import Jackknife
from noiseshift.shift.final_noise import wavelet
from noiseshift.shift.inference import resampled_means
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import Span, mean_square, mean_square_draws
from noiseshift.studies.folders import Run

MEAN_SQUARE = "mean δ²"
FINAL_NOISE = "residual noise variance"


@dataclass(frozen=True)
class Quantity:
    """What runs are tested in.

    Attributes:
        name: what it is called.
        values: its value by run.
        draws: (R,) by run; their spread is the value's standard error, and equal rows of two runs that share samples go together.
        freedom: degrees of freedom of that error, by run.
    """

    name: str
    values: Mapping[str, float]
    draws: Mapping[str, np.ndarray]
    freedom: Mapping[str, int]

    def difference(self, first: str, second: str, *, paired: bool) -> dict[str, Any]:
        """first - second, its 95 % interval and two-sided p by Student's t, at the fewer of the degrees of freedom (which is
        no more than Welch's number).

        Args:
            first: a run.
            second: another.
            paired: whether they share samples.
        """
        a, b = self.draws[first], self.draws[second]
        spread = float((a - b).std(ddof=1) if paired else np.hypot(a.std(ddof=1), b.std(ddof=1)))
        value = self.values[first] - self.values[second]
        freedom = min(self.freedom[first], self.freedom[second])
        half = float(stats.t.ppf(0.975, freedom)) * spread
        p = 2 * float(stats.t.sf(abs(value) / spread, freedom)) if spread else float(value == 0)
        return {"difference": value, "low": value - half, "high": value + half, "p": p}


def shifts_of(reports: Mapping[str, ShiftReport], span: Span) -> Quantity:
    """The mean of δ² along the levels of a span, for the runs that can be read over all of it.

    Args:
        reports: by run, of one estimator.
        span: the least and the greatest conditioning level.
    """
    squares = {name: mean_square(report, span) for name, report in reports.items()}
    seen = {name: reports[name] for name, square in squares.items() if np.isfinite(square)}
    return Quantity(
        MEAN_SQUARE,
        {name: squares[name] for name in seen},
        {name: mean_square_draws(report, span) for name, report in seen.items()},
        {name: len(report.sampled) - 1 for name, report in seen.items()},
    )


def final_noise_of(runs: Mapping[str, Run]) -> Quantity:
    """The noise variance of final pictures, by the finest diagonal Haar band, uncalibrated: in the difference of two runs of the
    same seeds, the pictures' own texture is taken out. Of the first pictures that each run kept.

    Args:
        runs: by name; those whose samples are no pictures of eight pixels a side are left out.
    """
    kept = {name: to_float(run.pictures) for name, run in runs.items() if _readable(run.pictures)}
    rows = {name: wavelet(pictures) for name, pictures in kept.items()}
    return Quantity(
        FINAL_NOISE,
        {name: float(values.mean()) for name, values in rows.items()},
        {name: resampled_means(values[:, None], np.random.default_rng(0))[:, 0] for name, values in rows.items()},
        {name: len(values) - 1 for name, values in rows.items()},
    )


def _readable(pictures: Tensor) -> bool:
    return pictures.ndim == 4 and min(pictures.shape[-2:]) >= 8 and len(pictures) > 1


@dataclass(frozen=True)
class Distances:
    """The distance to real images, tested as `Quantity` is: by the jackknife of each run that kept features.

    Attributes:
        name: of the distance.
        values: by run.
    """

    name: str
    values: Mapping[str, Jackknife]

    def difference(self, first: str, second: str, *, paired: bool) -> dict[str, Any]:
        """first - second, without the bias of few samples, its 95 % interval and two-sided p.

        Args:
            first: a run.
            second: another.
            paired: whether they share samples.
        """
        a, b = self.values[first], self.values[second]
        found = a.minus(b, paired=paired)
        p = a.p(b, paired=paired)
        return {"difference": found.value, "low": found.low, "high": found.high, "p": p}


def pairs_of(tested: Quantity | Distances, runs: Mapping[str, Run]) -> pd.DataFrame:
    """A row per pair of runs: their difference in one quantity, with Holm's p over all pairs.

    Args:
        tested: the quantity, of some of the runs.
        runs: by name; those of one seed and the same real images are paired.

    Returns:
        quantity, first, second, difference (first minus second), low, high (95 %), p, p holm, resolved (p holm < 0.05), paired.
        No row of the mean δ² for two runs on different schedules: their δ are not in one unit.
    """
    rows: list[dict[str, Any]] = []
    for first, second in itertools.combinations(tested.values, 2):
        paired = _share_samples(runs[first], runs[second])
        row = {"quantity": tested.name, "first": first, "second": second}
        if tested.name != MEAN_SQUARE or _one_schedule(runs[first], runs[second]):
            rows.append(row | tested.difference(first, second, paired=paired) | {"paired": paired})
    adjusted = holm([row["p"] for row in rows])
    rows = [row | {"p holm": p, "resolved": p < 0.05} for row, p in zip(rows, adjusted, strict=True)]
    columns = ["quantity", "first", "second", "difference", "low", "high", "p", "p holm", "resolved", "paired"]
    return pd.DataFrame(rows, columns=columns).astype({"resolved": bool, "paired": bool})


def _share_samples(a: Run, b: Run) -> bool:
    """Whether sample i of both starts from the same noise and class, read against the same real images."""
    same = all(a.manifest.get(key) == b.manifest.get(key) for key in ("seed", "samples", "shape", "data"))
    lengths = [{name: len(report.sampled) for name, report in run.reports.items()} for run in (a, b)]
    return same and all(lengths[0][name] == lengths[1][name] for name in lengths[0].keys() & lengths[1].keys())


def _one_schedule(a: Run, b: Run) -> bool:
    first, second = (describe(next(iter(run.reports.values())).schedule) for run in (a, b))
    return first == second


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 1979): rejecting those under 5 % keeps the chance of a single
    false rejection under 5 %."""
    order = np.argsort(p, kind="stable")
    adjusted = np.zeros(len(p))
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = largest
    return adjusted.tolist()
