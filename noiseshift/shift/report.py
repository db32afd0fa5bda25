"""The measurement: the noise level that sampling states carry, against the one the network is told.

delta(t) = (E[t_hat | sampled] - E[t_hat | real]) / slope: positive when states are noisier than told. Readings on held-out
real states at the same t (the calibration) take the estimator's bias out; readings on the run's own final samples,
noised again (the content control), take out what generated content does to an estimator at a *right* level.
Intervals are bootstrapped over samples and calibration rows; a shift under the detection floor is "not resolved".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import SAME_TIME, Array, Calibration, Readings, readable

RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class ShiftReport:
    """The noise shift of one run as one estimator reads it.

    steps (K,) sampler indices; times (K,) the levels told; sampled: readings of N sampling states; content: readings of
    the run's own finals, noised again to the same times (None when not asked for).
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
        """One row a step. shift, low, high: calibrated delta in t and its bootstrap interval at `level`; the same in
        log-SNR; sigma_e2 = sigma(t + delta)² - sigma(t)², signed; raw = mean reading - t; bias and slope of the
        calibration; floor: the least |delta| that can be told from 0; resolved: |delta| > floor. With a content
        control, content_shift is delta against it. delta is NaN where the calibration's slope is not within 0.5 … 2."""
        return self._table(level).copy()

    @functools.lru_cache(maxsize=64)  # noqa: B019 a figure asks for the same bootstrap again and again
    def _table(self, level: float) -> pd.DataFrame:
        blind = ~readable(self.calibration.slope)
        shift = self._shift("t")
        low, high = _interval(self._draws("t"), level)
        log_low, log_high = _interval(self._draws("log_snr"), level)
        floor = self.floor(level)
        columns = {
            "shift": shift,
            "low": low,
            "high": high,
            "shift_log_snr": self._shift("log_snr"),
            "log_snr_low": log_low,
            "log_snr_high": log_high,
            "sigma_e2": self._added_variance(shift),
            "floor": floor,
        }
        if self.content is not None:
            content_low, content_high = _interval(self._content_draws(), level)
            columns |= {
                "content_shift": self._content_shift(),
                "content_low": content_low,
                "content_high": content_high,
            }
        frame = pd.DataFrame({name: np.where(blind, np.nan, values) for name, values in columns.items()})
        frame.insert(0, "step", self.steps)
        frame.insert(1, "t", self.times)
        frame.insert(2, "log_snr", self.schedule.log_snr(torch.tensor(self.times)).numpy())
        frame["raw"] = self.sampled.t.mean(0) - self.times
        frame["bias"] = self.calibration.bias
        frame["slope"] = self.calibration.slope
        frame["resolved"] = (np.abs(shift) > floor) & ~blind
        frame["n"] = len(self.sampled)
        return frame

    def shift(self) -> Array:
        """(K,) delta in t, also where the calibration's slope says that it means nothing."""
        return self._shift("t")

    def standard_error(self) -> Array:
        """(K,) of the shift, in t: sqrt(sd²/n_sampled + sd²/n_real) / slope."""
        return _ratio(np.sqrt(sum(variance for variance, _ in self._variances())), self.calibration.slope)

    def covariance(self) -> Array:
        """(K, K) of the shift's own error over the steps: a state that reads high at one of them reads high at the next."""
        sampled, real = (
            np.cov(rows.t.T).reshape(2 * self.times.shape) / len(rows) for rows in (self.sampled, self.calibration.real)
        )
        return _ratio(sampled + real, np.outer(self.calibration.slope, self.calibration.slope))

    def floor(self, level: float = 0.95) -> Array:
        """(K,) detection floor, in t: standard errors times Welch's quantile of Student's t, which matters where an
        estimator reads a dozen states."""
        parts = self._variances()
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / (n - 1) for v, n in parts)
        return stats.t.ppf(0.5 + level / 2, np.nan_to_num(freedom, nan=np.inf)) * self.standard_error()

    def _variances(self) -> list[tuple[Array, int]]:
        """Squared standard errors (K,) of the two means, and their numbers of states."""
        return [(rows.t.var(0, ddof=1) / len(rows), len(rows)) for rows in (self.sampled, self.calibration.real)]

    def __sub__(self, other: ShiftReport) -> PairedDifference:
        """This run's shift minus another's; the two must share initial noise, classes and times, row by row.

        Raises ValueError when they do not line up.
        """
        alike = len(self.times) == len(other.times) and np.allclose(self.times, other.times, rtol=0, atol=SAME_TIME)
        if len(self.sampled) != len(other.sampled) or not alike:
            raise ValueError("paired reports need the same number of samples and the same times: measure both alike")
        return PairedDifference(self, other)

    def save(self, folder: str | Path) -> None:
        """Write `shift.parquet` (one row a state and step), `posteriors.npz` and `report.json`."""
        from noiseshift.shift.storage import write_reports

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_reports({self.estimator: self}, folder)

    @classmethod
    def load(cls, folder: str | Path) -> ShiftReport:
        """Read what `save` wrote. Raises ValueError when the folder holds several estimators' reports."""
        from noiseshift.shift.storage import read_reports

        reports = read_reports(Path(folder))
        if len(reports) != 1:
            raise ValueError(f"{folder} holds reports of {', '.join(reports)}: load it as a run")
        return next(iter(reports.values()))

    def _shift(self, name: str) -> Array:
        sampled, real = (getattr(rows, name).mean(0) for rows in (self.sampled, self.calibration.real))
        return _ratio(sampled - real, self._slopes(name).mean(0))

    def _slopes(self, name: str) -> Array:
        return self.calibration.slopes if name == "t" else self.calibration.slopes_log_snr

    def _draws(self, name: str, seed: int = 0) -> Array:
        """(R, K) bootstrap draws of the shift: samples, real states and slopes are each resampled."""
        rng = np.random.default_rng(seed)
        sampled = resampled_means(getattr(self.sampled, name), rng)
        real = resampled_means(getattr(self.calibration.real, name), rng)
        return _ratio(sampled - real, resampled_means(self._slopes(name), rng))

    def _content_shift(self) -> Array:
        assert self.content is not None
        return _ratio((self.sampled.t - self.content.t).mean(0), self.calibration.slope)

    def _content_draws(self) -> Array:
        """A state and its own final noised again are one unit: their difference is resampled."""
        assert self.content is not None
        rng = np.random.default_rng(0)
        pairs = resampled_means(self.sampled.t - self.content.t, rng)
        return _ratio(pairs, resampled_means(self.calibration.slopes, rng))

    def _added_variance(self, shift: Array) -> Array:
        then = np.clip(self.times + np.nan_to_num(shift), 0, 1)
        return (_sigma(self.schedule, then) ** 2 - _sigma(self.schedule, self.times) ** 2) + 0 * shift


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two runs' shifts, sample by sample; the calibration's error cancels."""

    first: ShiftReport
    second: ShiftReport

    def __repr__(self) -> str:
        return f"PairedDifference({self.first!r} - {self.second!r}: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """step, t, difference, low, high (bootstrap over pairs, in t) and whether the interval excludes 0."""
        pairs = self.first.sampled.t - self.second.sampled.t
        slope = self.first.calibration.slope
        rng = np.random.default_rng(0)
        draws = _ratio(resampled_means(pairs, rng), resampled_means(self.first.calibration.slopes, rng))
        low, high = _interval(draws, level)
        usable = readable(slope)
        frame = pd.DataFrame({"step": self.first.steps, "t": self.first.times, "difference": pairs.mean(0) / slope})
        frame["low"], frame["high"] = low, high
        frame.loc[~usable, ["difference", "low", "high"]] = np.nan
        frame["resolved"] = ((low > 0) | (high < 0)) & usable
        return frame


def resampled_means(values: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """(R, K) means over bootstrap resamples of the rows of values (N, K)."""
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return weights @ values / len(values)


def _ratio(values: Array, slopes: Array) -> Array:
    """values / slopes, NaN in silence where an estimator is insensitive and its slope 0."""
    return values / np.where(slopes == 0, np.nan, slopes)


def _interval(draws: Array, level: float) -> tuple[Array, Array]:
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high


def _sigma(schedule: Schedule, times: Array) -> Array:
    return schedule(torch.tensor(times)).sigma.numpy()
