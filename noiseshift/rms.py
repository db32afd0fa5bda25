"""One number a run: the rms shift over the steps that can be read, its interval, and what another run takes off it.

A square counts its own error; the error's variance is taken out, so that noise is not read as shift.
"""

from __future__ import annotations

import numpy as np

from noiseshift.estimators.calibration import Array
from noiseshift.evaluation import Change
from noiseshift.shift import ShiftReport, readable, resampled_means


def mean_square(report: ShiftReport) -> float:
    """Mean of δ² over the steps that can be read, less what its own error adds: below 0 by chance where there is no shift,
    NaN where nothing can be read."""
    usable = _usable(report)
    shift, variance = report.table()["shift"].to_numpy()[usable], report.standard_error()[usable] ** 2
    return float(np.mean(shift**2 - variance)) if usable.any() else float("nan")


def mean_square_draws(report: ShiftReport, *, seed: int = 0) -> Array:
    """(R,) bootstrap draws of `mean_square`. Reports of as many samples and calibration rows draw the same ones for the
    same seed: their draws are paired."""
    usable, rng = _usable(report), np.random.default_rng(seed)
    sampled, real = (resampled_means(part.t, rng) for part in (report.sampled, report.calibration.real))
    shift = ((sampled - real) / report.calibration.slope)[:, usable]
    # A draw carries its error twice: once as the estimate, once as the resample.
    return np.mean(shift**2 - 2 * report.standard_error()[usable] ** 2, axis=1)


def rms_shift(report: ShiftReport) -> float:
    """The root of `mean_square`; 0 where nothing is left."""
    return float(np.sqrt(np.maximum(mean_square(report), 0)))


def rms_draws(report: ShiftReport, *, seed: int = 0) -> Array:
    """(R,) bootstrap draws of `rms_shift`."""
    return np.sqrt(np.clip(mean_square_draws(report, seed=seed), 0, None))


def rms_interval(report: ShiftReport, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of `rms_shift`."""
    low, high = np.quantile(rms_draws(report), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def terminal_shift(report: ShiftReport) -> float:
    """δ at the last step that can be read."""
    shift = report.table()["shift"].dropna()
    return float(shift.iloc[-1]) if len(shift) else float("nan")


def content_rms(report: ShiftReport) -> float:
    """Root mean square of the content-controlled δ; NaN without that control."""
    if report.content is None:
        return float("nan")
    return float(np.sqrt((report.table().content_shift ** 2).mean()))


def reduction(report: ShiftReport, base: ShiftReport, *, seed: int = 0) -> Change:
    """1 - rms δ / rms δ of `base`, and its 95 % interval over paired resamples of samples and calibration rows.

    NaN where the shift of `base` is not told from 0: there is nothing to reduce.
    """
    draws, whole = [rms_draws(each, seed=seed) for each in (report, base)], rms_shift(base)
    if whole == 0 or np.quantile(draws[1], 0.025) == 0:
        return Change(float("nan"), float("nan"), float("nan"))
    ratio = 1 - draws[0] / np.maximum(draws[1], 1e-12)
    low, high = np.quantile(ratio, [0.025, 0.975])
    return Change(1 - rms_shift(report) / whole, float(low), float(high))


def _usable(report: ShiftReport) -> Array:
    return readable(report.calibration.slope)
