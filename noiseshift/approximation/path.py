"""Statement 1 in a real run: the error e of a coarse run against a fine one from the same seeds, state by state.

σ_e² = ‖x̂_t − x_t^ref‖²/d per state predicts a shift by first order; an estimator measures the one that is there. The
statement takes e for white Gaussian noise, independent of the state; here that is looked at: e's radial spectrum, its
kurtosis, its correlation with what the reference holds of data (x0) and noise (eps). What a correlation does is counted
too: ‖σ ε + e‖²/d = σ² + 2σ⟨ε, e⟩/d + σ_e², so first order *with the cross term* is the same formula with
σ_e² + 2σ⟨ε, e⟩/d, which can be negative [own].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.approximation.roots import shift_of_variance
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Array, Calibration, Instruments, common_times, read
from noiseshift.shift.inference import Ratio
from noiseshift.shift.reading import visits


@dataclass(frozen=True, eq=False)
class PathReport:
    """What the error e of a coarse run is, at K times of N paths.

    Attributes:
        estimator: what read the states.
        schedule: the path between data and noise.
        times: (K,).
        calibration: of the estimator, at these times.
        sigma_e2: (N, K) ‖e‖²/d.
        cross: (N, K) 2σ⟨ε, e⟩/d.
        coarse: (N, K) readings of t on the coarse run.
        fine: (N, K) the same on the fine one.
        kurtosis: (N, K) excess, over the coordinates of e.
        along_x0: (N, K) Pearson correlation of e with the reference's x0.
        along_eps: (N, K) the same with its eps.
        spectrum: (K, F) mean power of e at radial frequency f, 1 at all f if e were white; empty for flat states.
    """

    estimator: str
    schedule: Schedule
    times: Array
    calibration: Calibration
    sigma_e2: Array
    cross: Array
    coarse: Array
    fine: Array
    kurtosis: Array
    along_x0: Array
    along_eps: Array
    spectrum: Array

    def __repr__(self) -> str:
        return f"PathReport({self.estimator}, {len(self.coarse)} paths at {len(self.times)} times: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """A row per time: sigma_e (rms); first_order of it; first order with the cross term (`with_cross`); the shift
        measured between coarse and fine run (paired, with its interval), and of the coarse run against real data
        (`total`); excess_kurtosis, correlations, and `low_half`: the share of e's power in the lower half of the
        frequencies (NaN for flat states). Shifts are NaN where they cannot be read: see `Ratio.readable`."""
        measured = Ratio.of_mean(self.coarse - self.fine, self.calibration.slopes)
        total = Ratio.of_difference(self.coarse, self.calibration.real.t, self.calibration.slopes)
        low, high = measured.interval(level)
        t = torch.tensor(self.times)
        variance = torch.tensor(self.sigma_e2.mean(0))
        with_cross = torch.tensor((self.sigma_e2 + self.cross).mean(0))
        usable = measured.readable(self.times)
        return pd.DataFrame(
            {
                "t": self.times,
                "sigma_e": variance.sqrt().numpy(),
                "ratio": (variance.sqrt() / self.schedule(t).sigma).numpy(),
                "first_order": shift_of_variance(self.schedule, t, variance).numpy(),
                "with_cross": shift_of_variance(self.schedule, t, with_cross).numpy(),
                "measured": np.where(usable, measured.value, np.nan),
                "low": np.where(usable, low, np.nan),
                "high": np.where(usable, high, np.nan),
                "total": np.where(total.readable(self.times), total.value, np.nan),
                "excess_kurtosis": self.kurtosis.mean(0),
                "along_x0": self.along_x0.mean(0),
                "along_eps": self.along_eps.mean(0),
                "low_half": _low_half(self.spectrum),
                "resolved": ((low > 0) | (high < 0)) & usable,
            }
        )


def follow(
    coarse: Iterable[Step],
    fine: Iterable[Step],
    instruments: Instruments,
    *,
    cond: Tensor | None = None,
    reuse: bool = True,
) -> PathBatch:
    """Walk both runs of one batch side by side and compare them at the instruments' times.

    Args:
        coarse: The run that is looked at.
        fine: The run it is compared with: same initial noise, same Brownian path.
        instruments: What reads both, by name.
        cond: (n,) their classes, or None.
        reuse: False keeps the runs' predictions from estimators that would read them as their own model's.

    Returns:
        The batch's numbers; `assemble` makes reports of all batches.

    Raises:
        ValueError: A run does not pass through all times.
    """
    times = common_times(instruments)
    errors = []
    readings = []
    for a, b in zip(_at(coarse, times), _at(fine, times), strict=True):
        errors.append(_compare(a, b))
        shown = (a, b) if reuse else (replace(a, prediction=None), replace(b, prediction=None))
        readings.append({n: [read(i.estimator, s.x, cond, s).t[:, 0] for s in shown] for n, i in instruments.items()})
    scalars = {name: torch.stack([e[name] for e in errors], 1).numpy() for name in errors[0] if name != "spectrum"}
    spectrum = torch.stack([e["spectrum"] for e in errors]).numpy()
    pairs = {name: np.stack([r[name] for r in readings], axis=-1) for name in instruments}
    return PathBatch(scalars, spectrum, {name: (pair[0], pair[1]) for name, pair in pairs.items()})


@dataclass(frozen=True)
class PathBatch:
    """`follow`'s numbers for one batch of paths: scalars (n, K) by name, the spectrum (K, F) averaged over it, and each
    estimator's readings (n, K) of the coarse and the fine run.

    Attributes:
        scalars: (n, K) by name.
        spectrum: (K, F), averaged over the batch.
        readings: by estimator, (n, K) of the coarse and of the fine run.
    """

    scalars: dict[str, Array]
    spectrum: Array
    readings: dict[str, tuple[Array, Array]]


def assemble(batches: Sequence[PathBatch], schedule: Schedule, instruments: Instruments) -> dict[str, PathReport]:
    """A report an instrument from all batches.

    Args:
        batches: in the order of their samples.
        schedule: of the states.
        instruments: by name, those that read them.
    """
    joined = {name: np.concatenate([b.scalars[name] for b in batches]) for name in batches[0].scalars}
    sizes = [len(b.scalars["sigma_e2"]) for b in batches]
    spectrum = np.average([b.spectrum for b in batches], axis=0, weights=sizes)
    reports = {}
    for name, calibration in ((name, each.calibration) for name, each in instruments.items()):
        coarse, fine = (np.concatenate([b.readings[name][run] for b in batches]) for run in (0, 1))
        reports[name] = PathReport(
            name, schedule, calibration.times, calibration, coarse=coarse, fine=fine, spectrum=spectrum, **joined
        )
    return reports


def _at(steps: Iterable[Step], times: Array) -> Iterator[Step]:
    """The steps of a run that are read at the given falling times."""
    return (step for k, step in visits(steps, times) if k is not None)


def _compare(coarse: Step, fine: Step) -> dict[str, Tensor]:
    """What the error of a batch of states is: (n,) each, and its mean spectrum (F,)."""
    if fine.prediction is None:
        raise ValueError("the reference run has no prediction at a time that is compared: leave out its last time")
    error = (coarse.x - fine.x).double().cpu()
    x0, eps = (part.double().cpu() for part in (fine.prediction.x0, fine.prediction.eps))
    sigma = fine.prediction.level.sigma.double().cpu().flatten()[0]
    flat = error.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().mean(1).clamp_min(1e-300)
    return {
        "sigma_e2": flat.square().mean(1),
        "cross": 2 * sigma * (eps.flatten(1) * flat).mean(1),
        "kurtosis": (centred**4).mean(1) / variance**2 - 3,
        "along_x0": _correlation(flat, x0.flatten(1)),
        "along_eps": _correlation(flat, eps.flatten(1)),
        "spectrum": radial_spectrum(error).mean(0),
    }


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(N,) Pearson correlation over the coordinates of each row."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-300)


def radial_spectrum(x: Tensor) -> Tensor:
    """(N, F) power of x (N, C, H, W) at radial frequency 0 … F - 1 over its mean power: 1 everywhere for white noise.

    Frequencies in cycles per picture, averaged over rings and channels. Flat states (N, d) have none: (N, 0).
    """
    if x.ndim != 4:
        return x.new_zeros(len(x), 0)
    height, width = x.shape[-2:]
    power = torch.fft.fft2(x.double(), norm="ortho").abs().square().mean(1).flatten(1)
    rows, columns = torch.fft.fftfreq(height, 1 / height), torch.fft.fftfreq(width, 1 / width)
    ring = torch.hypot(rows[:, None], columns[None]).round().long().flatten()
    count = min(height, width) // 2 + 1
    inside = ring < count
    sums = torch.zeros(len(x), count, dtype=torch.float64).index_add_(1, ring[inside], power[:, inside])
    sizes = torch.bincount(ring[inside], minlength=count)
    return sums / sizes / power.mean(1, keepdim=True).clamp_min(1e-300)


def _low_half(spectrum: Array) -> Array:
    """(K,) share of the power below half the largest radial frequency, rings weighed by their circumference."""
    if not spectrum.shape[1]:
        return np.full(len(spectrum), np.nan)
    rings = np.maximum(1, 2 * np.pi * np.arange(spectrum.shape[1]))
    power = spectrum * rings
    half = (spectrum.shape[1] + 1) // 2
    with np.errstate(invalid="ignore"):  # there may be no power at all
        return power[:, :half].sum(1) / power.sum(1)
