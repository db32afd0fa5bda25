"""How much of a shift is the solver's: the measured network under N, 2N and 4N steps of one Brownian path.

With more steps the solver's part of a shift vanishes as steps^-p, p the solver's weak order; what stays is the network's. Three
runs check the order where it is used: delta_N - delta_2N must be 2^p times delta_2N - delta_4N. The limit is then
delta_4N + (delta_4N - delta_2N) / (2^p - 1), Richardson's. The runs share initial noise and, where they can, the Brownian path, so
that their differences are far more precise than each of them is. Other factors than 1, 2, 4 follow likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from noiseshift.estimators.instrument import Array, Calibration
from noiseshift.shift.inference import resampled_means
from noiseshift.shift.report import ShiftReport

FACTORS = (1, 2, 4)
"""Steps of the three runs, in units of the solver's own."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Parts:
    """A shift and what it is made of, each (…, K).

    Attributes:
        total: the run's own shift.
        solver: what refinement takes away, to the limit.
        network: what stays.
        seen: what refinement by 4 takes away.
        left: what the run by 4 N steps still has.
        gap: delta_N - delta_2N minus 2^p (delta_2N - delta_4N); 0 where the order is reached. Likewise of other factors.
    """

    total: Array
    solver: Array
    network: Array
    seen: Array
    left: Array
    gap: Array

    def interval(self, name: str, level: float) -> tuple[Array, Array]:
        """The central interval of draws (R, K).

        Args:
            name: of a field, such as "solver".
            level: such as 0.95.

        Returns:
            Its ends, each (K,); NaN where no draw has a slope.
        """
        draws: Array = getattr(self, name)
        some = ~np.isnan(draws).all(0)
        ends = np.full((2, draws.shape[1]), np.nan)
        ends[:, some] = np.nanquantile(draws[:, some], [0.5 - level / 2, 0.5 + level / 2], axis=0)
        return ends[0], ends[1]


@dataclass(frozen=True, eq=False)
class Refinement:
    """Readings of the same samples under more and more steps.

    Attributes:
        estimator: whose readings.
        order: weak order p of the solver.
        readings: (3, M, K) mean t of M samples' states at K times, under N, 2N and 4N steps.
        calibration: of the estimator, at the K times.
        factors: steps of the three runs, in units of the solver's own.
    """

    estimator: str
    order: float
    readings: Array
    calibration: Calibration
    factors: tuple[int, ...] = FACTORS

    def split(self, report: ShiftReport, level: float = 0.95) -> pd.DataFrame:
        """The solver's and the network's part of a run's shift.

        Args:
            report: the run, read by the same estimator at the same times; its first M samples are those that were refined.
            level: of the intervals.

        Returns:
            A row per time: t, total; solver, network, each with its interval; `reached`, whether the differences agree with
            the solver's order. Where they do not, no limit is taken: the intervals also hold what the finest run shows.

        Raises:
            ValueError: the report is of other times, or of fewer samples.
        """
        if len(report.sampled) < self.readings.shape[1] or not np.allclose(report.times, self.calibration.times):
            raise ValueError("a split needs the run that was refined: the same times, and at least its samples")
        means = self._parts(
            self.readings.mean(1), report.sampled.t.mean(0), self.calibration.real.t.mean(0), self.calibration.slope
        )
        drawn = self._draws(report)
        gap_low, gap_high = drawn.interval("gap", level)
        reached = (gap_low <= 0) & (gap_high >= 0)
        columns = {"total": means.total}
        for name, finest in (("solver", "seen"), ("network", "left")):
            ends = _hull(drawn.interval(name, level), drawn.interval(finest, level), reached)
            columns |= {name: getattr(means, name), f"{name}_low": ends[0], f"{name}_high": ends[1]}
        usable = report.readable
        frame = pd.DataFrame({name: np.where(usable, values, np.nan) for name, values in columns.items()})
        frame.insert(0, "t", self.calibration.times)
        frame["reached"] = reached & usable
        return frame

    def _parts(self, runs: Array, sampled: Array, real: Array, slope: Array) -> Parts:
        """From means of readings: runs (3, …, K), the report's, the real data's, and the slope; NaN where it is 0."""
        slope = np.where(slope == 0, np.nan, slope)
        coarse, middle, fine = runs / slope
        errors = [factor**-self.order for factor in self.factors]
        limit = (fine - middle) * errors[2] / (errors[1] - errors[2])
        total = (sampled - real) / slope
        seen = coarse - fine
        solver = seen - limit
        gap = (coarse - middle) - (errors[0] - errors[1]) / (errors[1] - errors[2]) * (middle - fine)
        return Parts(total, solver, total - solver, seen, total - seen, gap)

    def _draws(self, report: ShiftReport) -> Parts:
        """Bootstrap draws; a sample is drawn together with its refined runs."""
        rng = np.random.default_rng(0)
        sampled = report.sampled.t
        refined = self.readings.shape[1]
        weights = rng.multinomial(len(sampled), np.full(len(sampled), 1 / len(sampled)), size=RESAMPLES)
        inner = weights[:, :refined]
        runs = inner @ self.readings / np.maximum(inner.sum(1), 1)[:, None]
        real = resampled_means(self.calibration.real.t, rng, RESAMPLES)
        slope = resampled_means(self.calibration.slopes, rng, RESAMPLES)
        return self._parts(runs, weights @ sampled / len(sampled), real, slope)


def _hull(first: tuple[Array, Array], second: tuple[Array, Array], reached: Array) -> tuple[Array, Array]:
    """The first interval where the order is reached, else the least that holds both."""
    low = np.where(reached, first[0], np.minimum(first[0], second[0]))
    high = np.where(reached, first[1], np.maximum(first[1], second[1]))
    return low, high
