"""Statement 1 where the error is known: white Gaussian noise σ_e added to real states, and what an estimator reads.

δ is read off a curve, not off a slope: the same real samples, under the same noise, are read at a row of true levels
s ≥ t, and the injected states' mean reading is looked up on it. So an estimator's bias may vary with the level, and a
large shift is as well calibrated as a small one. Rows are paired throughout and bootstrapped together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from noiseshift.approximation.roots import (
    Spectrum,
    error_map,
    first_order_limit,
    first_order_shift,
    leading_shift,
    possible_shift,
)
from noiseshift.diffusion.noise import POSITIVE, TARGET, generator, generators, normal, torch_generator
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Array, Instrument, read
from noiseshift.estimators.posterior import Estimator
from noiseshift.targets import Target

LEVELS = 7
"""True levels on the reading curve of one t: one below it, t itself, and a row up to past the `sigma` root."""

TOLERANCES = (0.05, 0.10)


@dataclass(frozen=True, eq=False)
class ApproximationReport:
    """Measured against predicted shift, for K conditioning times and E injected errors each.

    Attributes:
        estimator: what read the states.
        schedule: the path between data and noise.
        times: (K,).
        sigma_es: (K, E) standard deviations of the injected noise.
        levels: (K, L) true levels of the calibration curve.
        curve: (n, K, L) readings there of n real samples.
        injected: (n, K, E) readings of the same samples with the injected noise.
        posterior: (K, E) the shift that Gaussian data of the same spectrum would show.
    """

    estimator: str
    schedule: Schedule
    times: Array
    sigma_es: Array
    levels: Array
    curve: Array
    injected: Array
    posterior: Array

    def table(self, level: float = 0.95, resamples: int = 500) -> pd.DataFrame:
        """A row a (t, σ_e): measured shift with its bootstrap interval; the roots `sigma`, `snr`, `posterior` (NaN where
        one leaves [0, 1]); Statement 1 (`first_order`) and its leading term; and error = first_order / measured - 1 with
        its interval. resolved: the interval excludes 0.

        Args:
            level: of the intervals.
            resamples: of the rows, for the intervals.
        """
        draws = self._draws(resamples)
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        t, sigma_e = torch.tensor(self.times)[:, None], torch.tensor(self.sigma_es)
        first = first_order_shift(self.schedule, t, sigma_e).numpy()
        measured = self._measured()
        low, high = (np.where(np.isnan(measured), np.nan, end) for end in (low, high))
        resolved = (low > 0) | (high < 0)
        columns = {
            "t": np.broadcast_to(self.times[:, None], measured.shape),
            "sigma_e": self.sigma_es,
            "ratio": self.sigma_es / self.schedule(t).sigma.numpy(),
            "measured": measured,
            "low": low,
            "high": high,
            "sigma": possible_shift(self.schedule, t, sigma_e).numpy(),
            "snr": possible_shift(self.schedule, t, sigma_e, "snr").numpy(),
            "posterior": self.posterior,
            "first_order": first,
            "leading": leading_shift(self.schedule, t, sigma_e).numpy(),
            "error": np.where(resolved, first / measured - 1, np.nan),
            "error_low": np.where(resolved, first / np.where(high > 0, high, np.nan) - 1, np.nan),
            "error_high": np.where(resolved, first / np.where(low > 0, low, np.nan) - 1, np.nan),
            "resolved": resolved,
        }
        return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})

    def limits(self) -> pd.DataFrame:
        """A row a t: the largest σ_e/σ_t at which first order stays within 5 % and 10 %, against the exact `sigma` root
        (any σ_e) and against the measured shift (the largest injected one up to which every resolved error stays inside;
        NaN when the first is already outside)."""
        table = self.table()
        frame = pd.DataFrame({"t": self.times})
        for tolerance in TOLERANCES:
            percent = f"{100 * tolerance:.0f} %"
            limit = first_order_limit(self.schedule, torch.tensor(self.times), tolerance)
            frame[f"sigma root, {percent}"] = limit.numpy()
            frame[f"measured, {percent}"] = [
                _last_within(part, tolerance) for _, part in table.groupby("t", sort=False)
            ]
        return frame

    def errors(self, ratios: Tensor) -> Array:
        """(K, R) first order against the `sigma` root over σ_e/σ_t = ratios: the pure mathematics."""
        return error_map(self.schedule, torch.tensor(self.times), ratios).numpy()

    def _measured(self) -> Array:
        """(K, E) shifts of all rows; NaN where the reading lies off the curve and so has no level."""
        found = self._lookup(np.ones((1, len(self.curve))) / len(self.curve))[0]
        ends = (self.levels - self.times[:, None])[:, [0, -1]]
        return np.where((found <= ends[:, :1]) | (found >= ends[:, 1:]), np.nan, found)

    def _draws(self, resamples: int) -> Array:
        """(R, K, E) shifts over bootstrap resamples of the rows."""
        n = len(self.curve)
        rng = np.random.default_rng(0)
        return self._lookup(rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n)

    def _lookup(self, weights: Array) -> Array:
        """(R, K, E): where on the curve the injected states' mean reading lies, for each row of weights (R, n)."""
        found = np.empty((len(weights), *self.sigma_es.shape))
        for k, t in enumerate(self.times):
            fine = np.linspace(self.levels[k, 0], self.levels[k, -1], 513)
            curves = PchipInterpolator(self.levels[k], weights @ self.curve[:, k], axis=1)(fine)
            readings = weights @ self.injected[:, k]
            for r, (curve, reading) in enumerate(zip(curves, readings, strict=True)):
                # Only a rising curve can be inverted; a reading off its ends stays at the end.
                found[r, k] = np.interp(reading, np.maximum.accumulate(curve), fine) - t
        return found


def _last_within(part: pd.DataFrame, tolerance: float) -> float:
    """The largest ratio up to which every resolved error is within tolerance; NaN when there is none."""
    resolved = part[part.resolved]
    outside = resolved[resolved.error.abs() > tolerance]
    inside = resolved if outside.empty else resolved[resolved.ratio < outside.ratio.min()]
    return float(inside.ratio.max()) if len(inside) else float("nan")


def check(
    data: Tensor | Target,
    estimator: Estimator | Instrument,
    times: Tensor,
    sigma_es: Tensor,
    *,
    cond: Tensor | None = None,
    seed: int = 0,
    name: str = "shift",
    spectrum: Spectrum | None = None,
) -> ApproximationReport:
    """Add known noise to real states and measure the shift it makes.

    Args:
        data: (n, …) real samples, or an exact target, of which 256 are drawn.
        estimator: what reads them; an instrument's calibration is not needed, because the curve of its readings is measured here.
        times: (K,) strictly between 0 and 1.
        sigma_es: (E,) for every t, or (K, E).
        cond: (n,) classes, or None.
        seed: of the noise.
        name: what the estimator is called in the report.
        spectrum: of the Gaussian data of the `posterior` column; by default that of `data`.

    Returns:
        The report, whose `table()` has a row for each time and error.

    Raises:
        ValueError: an error is more noise than the schedule holds.
    """
    if isinstance(data, Target):
        data = data.sample(256, torch_generator(generator(0, seed=seed, stream=TARGET)))
    if len(data) < 8:
        raise ValueError(f"{len(data)} samples are too few for an interval: give at least 8, better 200")
    if isinstance(estimator, Instrument):
        estimator = estimator.estimator
    schedule = estimator.schedule
    times = times.double().cpu()
    if not bool(((times > 0) & (times < 1)).all()):
        raise ValueError("inject strictly between t = 0 and t = 1: at the ends there is no level to read")
    sigma_es = torch.as_tensor(sigma_es, dtype=torch.float64).cpu().expand(len(times), -1).contiguous()
    levels = torch.stack([_levels(schedule, t, errors) for t, errors in zip(times, sigma_es, strict=True)])
    sources = generators(range(len(data)), seed=seed, stream=POSITIVE)
    curve = np.empty((len(data), *levels.shape))
    injected = np.empty((len(data), *sigma_es.shape))
    for k, t_cond in enumerate(times):
        eps, extra = (normal(sources, data.shape[1:]).to(data) for _ in range(2))
        for j, level in enumerate(levels[k]):
            curve[:, k, j] = _read(estimator, schedule(level).mix(data, eps), cond, t_cond, k)
        for j, sigma_e in enumerate(sigma_es[k]):
            x = schedule(t_cond).mix(data, eps) + float(sigma_e) * extra
            injected[:, k, j] = _read(estimator, x, cond, t_cond, k)
    gaussian = spectrum or Spectrum.of(data.cpu())
    posterior = possible_shift(schedule, times[:, None], sigma_es, "posterior", data=gaussian)
    return ApproximationReport(
        name, schedule, times.numpy(), sigma_es.numpy(), levels.numpy(), curve, injected, posterior.numpy()
    )


def _levels(schedule: Schedule, t: Tensor, sigma_es: Tensor) -> Tensor:
    """(L,) levels from a little below t to past the largest `sigma` root; the root must lie in [0, 1]."""
    reach = possible_shift(schedule, t, sigma_es.max())
    if bool(reach.isnan()):
        raise ValueError(
            f"sigma_e = {float(sigma_es.max()):.4g} at t = {float(t):.4g} is more noise than the schedule ends with: "
            "inject less"
        )
    reach = torch.minimum(1.25 * reach, (1 - t) * 0.999)
    above = t + reach * torch.linspace(0, 1, LEVELS - 1, dtype=torch.float64) ** 1.5
    return torch.cat([(t - 0.15 * reach).clamp_min(t / 4)[None], above])


def _read(estimator: Estimator, x: Tensor, cond: Tensor | None, t_cond: Tensor, index: int) -> Array:
    """(n,) mean readings of t, in batches of 256."""
    parts = []
    for start in range(0, len(x), 256):
        rows = x[start : start + 256]
        labels = None if cond is None else cond[start : start + 256]
        parts.append(read(estimator, rows, labels, Step(index, t_cond, rows, first=start)).t[:, 0])
    return np.concatenate(parts)
