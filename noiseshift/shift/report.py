"""The measurement: the effective noise level of sampling states, against the conditioning level.

delta(t) = (E[t_hat | sampled] - E[t_hat | real]) / slope: positive when states are noisier than the
conditioning level. Readings on held-out real states at the same t (the calibration) take the estimator's bias out;
readings on the run's own final samples, re-noised (the content control), take out what generated content does to an
estimator at a *right* level.
Each level has its interval, by `inference`; whether the run has any shift is one test over all of its levels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import SAME_TIME, Array, Calibration, Readings
from noiseshift.shift.inference import Ratio, RunTest, divided
from noiseshift.writing import changed, whole_folder


@dataclass(frozen=True, eq=False)
class ShiftReport:
    """The noise shift of one run as one estimator reads it.

    Attributes:
        estimator: its name.
        schedule: of the states.
        steps: (K,) `Step.index` of the states that were read.
        times: (K,) their conditioning times.
        sampled: readings of N sampling states.
        calibration: of the estimator, at these times.
        content: readings of the run's own final samples, re-noised to the same times; None without that control.
    """

    estimator: str
    schedule: Schedule
    steps: Array
    times: Array
    sampled: Readings
    calibration: Calibration
    content: Readings | None = None

    def __repr__(self) -> str:
        span = f"{len(self.times)} times from t = {self.times[0]:.2f} to {self.times[-1]:.2f}"
        return f"ShiftReport({self.estimator}, {len(self.sampled)} samples at {span}: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """One row a step that was read.

        shift, low, high: calibrated delta in t, and its interval at `level`. band_low, band_high: the band that holds delta at
        all levels at once with that probability. shift_log_snr, log_snr_low, log_snr_high: the same in log-SNR. sigma_e2:
        sigma(t + delta)² - sigma(t)², signed. floor: the least |delta| that is significant. raw: mean reading - t. bias,
        slope: of the calibration. calibration_share: the part of delta's variance that more samples do not lower. resolved:
        the interval excludes 0, at this level alone; whether the run has any shift is `test()`. n: states read. With a
        content control, content_shift is delta against the final samples, re-noised. baseline: what delta is against. delta is
        NaN where it is not `readable`.
        """
        return self._table(level).copy()

    @functools.lru_cache(maxsize=64)  # noqa: B019 a figure uses the same bootstrap many times
    def _table(self, level: float) -> pd.DataFrame:
        columns = self._level_columns(level) | ({} if self.content is None else self._content_columns(level))
        frame = pd.DataFrame({name: np.where(self.readable, values, np.nan) for name, values in columns.items()})
        frame.insert(0, "step", self.steps)
        frame.insert(1, "t", self.times)
        frame.insert(2, "log_snr", self.schedule.log_snr(torch.tensor(self.times)).numpy())
        frame["raw"] = self.sampled.t.mean(0) - self.times
        frame["bias"] = self.calibration.bias
        frame["slope"] = self.calibration.slope
        frame["resolved"] = (frame.low > 0) | (frame.high < 0)
        frame["n"] = len(self.sampled)
        frame["baseline"] = self.baseline
        return frame

    def _level_columns(self, level: float) -> dict[str, Array]:
        in_t, in_log_snr = self.ratio(), self.ratio("log_snr")
        low, high = in_t.interval(level)
        band_low, band_high = in_t.band(level, self.readable)
        log_snr_low, log_snr_high = in_log_snr.interval(level)
        return {
            "shift": in_t.value,
            "low": low,
            "high": high,
            "band_low": band_low,
            "band_high": band_high,
            "shift_log_snr": in_log_snr.value,
            "log_snr_low": log_snr_low,
            "log_snr_high": log_snr_high,
            "sigma_e2": self._added_variance(in_t.value),
            "floor": in_t.floor(level),
            "calibration_share": self.calibration_share(),
        }

    def _content_columns(self, level: float) -> dict[str, Array]:
        assert self.content is not None
        # A state and its own final sample, re-noised, are one unit: their difference is resampled.
        rows = len(self.content)
        against = Ratio.of_mean(self.sampled.t[:rows] - self.content.t, self.calibration.slopes)
        low, high = against.interval(level)
        columns = {"content_shift": against.value, "content_low": low, "content_high": high}
        return {name: np.where(against.readable(self.times), values, np.nan) for name, values in columns.items()}

    @functools.cached_property
    def readable(self) -> Array:
        """(K,) whether delta can be read at each time: see `Ratio.readable`."""
        return self.ratio().readable(self.times)

    @property
    def baseline(self) -> str:
        """What the shift is against: held-out data, or re-noised final samples of its own run."""
        return self.calibration.baseline

    def test(self, level: float = 0.95) -> RunTest:
        """Is there a shift at any level? By the largest |T| over the levels that can be read, in which the levels' own
        dependence is kept: where there is none, a run is called shifted once in twenty at `level` 0.95."""
        return self.ratio().at(self.readable).test(level)

    def shift(self) -> Array:
        """(K,) delta in t, also where it is not `readable` and means nothing."""
        return divided(self.sampled.t.mean(0) - self.calibration.real.t.mean(0), self.calibration.slope)

    def standard_error(self) -> Array:
        """(K,) of the shift, in t: sqrt(sd²/n_sampled + sd²/n_real) / slope."""
        return divided(np.sqrt(sum(self._variances())), self.calibration.slope)

    def calibration_share(self) -> Array:
        """(K,) the part of the shift's variance that is the calibration's: more samples do not lower it."""
        sampled, real = self._variances()
        return divided(real, sampled + real)

    def covariance(self) -> Array:
        """(K, K) of the shift's own error over the steps: a state that reads high at one of them reads high at the next."""
        sampled, real = (
            np.cov(rows.t.T).reshape(2 * self.times.shape) / len(rows) for rows in (self.sampled, self.calibration.real)
        )
        return divided(sampled + real, np.outer(self.calibration.slope, self.calibration.slope))

    def floor(self, level: float = 0.95) -> Array:
        """(K,) detection floor, in t: the least |delta| whose interval at `level` excludes 0."""
        return self.ratio().floor(level)

    def _variances(self) -> list[Array]:
        """Squared standard errors (K,) of the two means, sampled and real."""
        return [rows.t.var(0, ddof=1) / len(rows) for rows in (self.sampled, self.calibration.real)]

    @functools.lru_cache(maxsize=64)  # noqa: B019 the table and the run's test share their resamples
    def ratio(self, name: str = "t") -> Ratio:
        """The shift in `t` or `log_snr`, as differences of readings over their slope, with the errors of both."""
        slopes = self.calibration.slopes if name == "t" else self.calibration.slopes_log_snr
        return Ratio.of_difference(getattr(self.sampled, name), getattr(self.calibration.real, name), slopes)

    def __sub__(self, other: ShiftReport) -> PairedDifference:
        """This run's shift minus another's; the two must share initial noise, classes and times, row by row.

        Raises ValueError when they do not line up.
        """
        alike = len(self.times) == len(other.times) and np.allclose(self.times, other.times, rtol=0, atol=SAME_TIME)
        if len(self.sampled) != len(other.sampled) or not alike:
            raise ValueError("paired reports need the same number of samples and the same times: measure both alike")
        return PairedDifference(self, other)

    def save(self, folder: str | Path) -> None:
        """Write `shift.parquet` (one row a state and step), `posteriors.npz` and `report.json`, whole or not at all.

        Raises PlaceError (a ValueError) where something else than an earlier report is there.
        """
        from noiseshift.shift.storage import write_reports

        with whole_folder(folder, "report") as fresh:
            write_reports({self.estimator: self}, fresh)

    @classmethod
    def load(cls, folder: str | Path) -> ShiftReport:
        """Read what `save` wrote; files that were changed since are said on the log. Raises ValueError when the folder holds
        several estimators' reports."""
        from noiseshift.shift.storage import read_reports

        reports = read_reports(Path(folder))
        changed(Path(folder))
        if len(reports) != 1:
            raise ValueError(f"{folder} holds reports of {', '.join(reports)}: load it as a run")
        return next(iter(reports.values()))

    def _added_variance(self, shift: Array) -> Array:
        then = np.clip(self.times + np.nan_to_num(shift), 0, 1)
        return (_sigma(self.schedule, then) ** 2 - _sigma(self.schedule, self.times) ** 2) + 0 * shift


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two runs' shifts, sample by sample; the calibration's error cancels.

    Attributes:
        first: the report that is subtracted from.
        second: the report that is subtracted.
    """

    first: ShiftReport
    second: ShiftReport

    def __repr__(self) -> str:
        return f"PairedDifference({self.first!r} - {self.second!r}: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """step, t, difference, low, high (in t) and whether the interval excludes 0."""
        found = self._ratio()
        low, high = found.interval(level)
        frame = pd.DataFrame({"step": self.first.steps, "t": self.first.times, "difference": found.value})
        frame["low"], frame["high"] = low, high
        frame.loc[~self.readable, ["difference", "low", "high"]] = np.nan
        frame["resolved"] = (frame.low > 0) | (frame.high < 0)
        return frame

    def test(self, level: float = 0.95) -> RunTest:
        """Is there a difference at any level that can be read? See `ShiftReport.test`."""
        return self._ratio().at(self.readable).test(level)

    @property
    def readable(self) -> Array:
        """(K,) whether both shifts can be read."""
        return self.first.readable & self.second.readable

    def _ratio(self) -> Ratio:
        return Ratio.of_mean(self.first.sampled.t - self.second.sampled.t, self.first.calibration.slopes)


def _sigma(schedule: Schedule, times: Array) -> Array:
    return schedule(torch.tensor(times)).sigma.numpy()
