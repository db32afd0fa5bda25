"""What is left in the finished picture: the noise of final samples, sigma end, in the data's units.

A reader takes one number off each sample, which rises with the noise in it and also with texture. So it is read off held-out real
data too, and off the same data with known noise added: the difference of the samples' mean from the real data's is looked up on
that curve. Texture that real data have is not called noise; samples that are smoother than the data come out below zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.diffusion.noise import CONTENT, PERTURBING, generators, normal
from noiseshift.diffusion.steps import Step
from noiseshift.estimators.instrument import Array
from noiseshift.estimators.posterior import Estimator
from noiseshift.shift.inference import difference_error

Reader = Callable[[Tensor], Array]
"""Samples (N, …) → (N,) float64: a number a sample that rises with its noise."""

ADDED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations of the known noise, in units of the data's own."""

RISE = 1.15
"""How much further a reading must be for about twice the noise, or the reader has come to its end."""

NORMAL_MEDIAN = 0.6744897501960817
"""Median of |z|, z standard normal."""

SMALL_T = 0.05
BATCH = 128


def wavelet(x: Tensor) -> Array:
    """The noise variance by the median absolute deviation of the finest diagonal Haar band, HH (Donoho & Johnstone, Biometrika
    81, 1994): half of the coefficients may be anything, so that edges do not count.

    Args:
        x: (N, C, H, W), at least two pixels a side.
    """
    height, width = 2 * (x.shape[-2] // 2), 2 * (x.shape[-1] // 2)
    even = x.double()[..., :height, :width]
    diagonal = even[..., ::2, ::2] - even[..., ::2, 1::2] - even[..., 1::2, ::2] + even[..., 1::2, 1::2]
    deviation = (diagonal / 2).abs().flatten(2).quantile(0.5, dim=-1) / NORMAL_MEDIAN
    found: Array = deviation.square().mean(1).cpu().numpy()
    return found


@dataclass(frozen=True, eq=False)
class ConstantCoordinates:
    """The noise variance by what should be constant: coordinates that never vary in the data hold nothing but noise. By the median
    absolute deviation, because a coordinate that varies in one picture of a thousand is no noise.

    Attributes:
        mean: (d,) what each coordinate is in the data.
        mask: (d,) which of them are constant.
    """

    mean: Tensor
    mask: Tensor

    @classmethod
    def of(cls, real: Tensor, tolerance: float = 0.01, least: int = 8) -> ConstantCoordinates | None:
        """Those of data (N, …), of a standard deviation of at most `tolerance`; None where fewer than `least` are.

        Args:
            real: (N, …) real data.
            tolerance: in the units of the data.
            least: how many there must be.
        """
        variance, mean = torch.var_mean(real.flatten(1).double().cpu(), dim=0)
        mask = variance <= tolerance**2
        return cls(mean, mask) if int(mask.sum()) >= least else None

    def __call__(self, x: Tensor) -> Array:
        off = x.flatten(1).double().cpu()[:, self.mask] - self.mean[self.mask]
        deviation: Array = off.abs().quantile(0.5, dim=1).numpy() / NORMAL_MEDIAN
        return deviation**2


@dataclass(frozen=True, eq=False)
class LevelReader:
    """The level that an estimator reads off samples re-noised to a small t: they look noisier by what they hold already.

    On exact distributions its intervals hold the truth as the others' do (`benchmarks/final_noise.py level`). A network reads the
    content of samples too, where that is new to it.

    Attributes:
        estimator: what reads.
        t: the level that they are re-noised to.
        device: where the estimator computes.
        seed: of the noise, one generator a row.
    """

    estimator: Estimator
    t: float = SMALL_T
    device: str = "cpu"
    seed: int = 0

    def __call__(self, x: Tensor) -> Array:
        time = torch.tensor(self.t, dtype=torch.float64)
        level = self.estimator.schedule(time)
        found = []
        for start in range(0, len(x), BATCH):
            rows = x[start : start + BATCH].float()
            eps = normal(generators(range(start, start + len(rows)), seed=self.seed, stream=CONTENT), rows.shape[1:])
            state = level.mix(rows, eps).to(self.device)
            with torch.no_grad():
                found.append(self.estimator(state, None, step=Step(0, time, state)).mean.double().cpu())
        values: Array = torch.cat(found).numpy()
        return values


def residual_noise(
    samples: Tensor,
    real: Tensor,
    *,
    readers: Mapping[str, Reader] | None = None,
    estimator: Estimator | None = None,
    peak: float | None = 2.0,
    seed: int = 0,
) -> pd.DataFrame:
    """The noise that final samples hold, by several readers.

    Args:
        samples: (N, …) final samples, at least 2.
        real: (M, …) held-out real data of the same shape and scale, at least 8.
        readers: by name; by default `wavelet` for pictures, the constant coordinates where the data have some, and `level`
            where there is an estimator.
        estimator: reads the noise level of states, for the reader `level`.
        peak: the range of the data from black to white, for PSNR; None leaves it out.
        seed: of the noise that is added.

    Returns:
        A row a reader: `sigma` with its 95 % interval `low`, `high`, in the data's units, infinite above what the reader can
            tell; `psnr` in dB, infinite where sigma is 0; `floor`, the least sigma that would be significant; `variance` with
            `variance_low` and `variance_high`, signed: below 0 the samples are smoother than the data; `verdict`, "noise",
            "none seen" or "smoother".

    Raises:
        ValueError: for too few rows or unlike shapes.
    """
    if len(samples) < 2 or len(real) < 8:
        raise ValueError(f"residual noise needs 2 samples and 8 real ones, got {len(samples)} and {len(real)}")
    if samples.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"samples are {tuple(samples.shape[1:])}, real data {tuple(real.shape[1:])}: give alike shapes"
        )
    samples, real = samples.detach().float().cpu(), real.detach().float().cpu()
    chosen = default_readers(real, estimator, seed) if readers is None else readers
    rows = [_read(name, reader, samples, real, seed) for name, reader in chosen.items()]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    with np.errstate(divide="ignore"):
        frame["psnr"] = math.nan if peak is None else 20 * np.log10(peak / frame.sigma.to_numpy())
    return frame


COLUMNS = (
    *("reader", "sigma", "low", "high", "floor", "variance", "variance_low", "variance_high", "verdict"),
    *("samples", "real"),
)


def default_readers(real: Tensor, estimator: Estimator | None = None, seed: int = 0) -> dict[str, Reader]:
    """Those that are available for data (N, …).

    Args:
        real: (N, …) real data: what is constant in them, and their shape, decide.
        estimator: a level estimator, read near t = 0; None for none.
        seed: of the noise that it adds to states.

    Returns:
        By name: "wavelet" (pictures of at least 8 × 8), "constant-pixel", "level".
    """
    found: dict[str, Reader] = {}
    if real.ndim == 4 and min(real.shape[-2:]) >= 8:
        found["wavelet"] = wavelet
    constant = ConstantCoordinates.of(real)
    if constant is not None:
        found["constant-pixel"] = constant
    if estimator is not None:
        found["level"] = LevelReader(estimator, seed=seed)
    return found


def _read(name: str, reader: Reader, samples: Tensor, real: Tensor, seed: int) -> dict[str, object]:
    curve = Curve.of(reader, real, seed)
    ours = reader(samples)[:, None]
    difference = float(ours.mean() - curve.rows[0].mean())
    error = difference_error(ours, curve.near(difference)[:, None])
    reach = float(error.critical()[0] * np.sqrt(error.variance[0]))
    value, low, high, floor = curve.variance([difference, difference - reach, difference + reach, reach])
    low = min(low, float(curve.variances[-1]))  # so much at least, where all of it is more than the reader can tell
    return {
        "reader": name,
        **{
            key: math.sqrt(max(v, 0.0)) for key, v in (("sigma", value), ("low", low), ("high", high), ("floor", floor))
        },
        "variance": value,
        "variance_low": low,
        "variance_high": high,
        "verdict": "noise" if low > 0 else "smoother" if high < 0 else "none seen",
        "samples": len(samples),
        "real": len(real),
    }


@dataclass(frozen=True, eq=False)
class Curve:
    """How far a reader's mean moves when noise of known variance is added to real data.

    Attributes:
        rows: (K + 1, M) readings of the real data, with noise of each variance.
        variances: (K + 1,) of the noise, from 0.
        moved: (K + 1,) differences of the mean reading, rising from 0.
    """

    rows: Array
    variances: Array
    moved: Array

    @classmethod
    def of(cls, reader: Reader, real: Tensor, seed: int) -> Curve:
        """Of real data (M, …). Every amount is of one draw, so that the curve is smooth. Raises ValueError where the reader
        does not see noise.

        Args:
            reader: gives a number per picture.
            real: (M, …) real data without added noise.
            seed: of the noise that is added.
        """
        scale = float(real.double().std())
        eps = normal(generators(range(len(real)), seed=seed, stream=PERTURBING), real.shape[1:])
        sizes = [scale * size for size in ADDED]
        clean = reader(real)
        # Both signs of the noise: what it has in common with the picture cancels.
        both = [(reader(real + size * eps) + reader(real - size * eps)) / 2 for size in sizes]
        moved = np.array([0.0, *(float((noisy - clean).mean()) for noisy in both)])
        kept = _rising(moved)
        if len(kept) < 3:
            raise ValueError("this reader does not see noise that is added to the real data: leave it out")
        return cls(np.stack([clean, *both])[kept], np.array([0.0, *(size**2 for size in sizes)])[kept], moved[kept])

    def near(self, moved: float) -> Array:
        """(M,) the readings of the amount that moves the mean nearest to this: their spread is the curve's own error there."""
        near: Array = self.rows[int(np.abs(self.moved - moved).argmin())]
        return near

    def variance(self, moved: Sequence[float]) -> list[float]:
        """The variances that move the mean so far: below the curve by its first slope, as negative values; infinite above it."""
        from scipy.interpolate import PchipInterpolator

        # Rises as the readings do; straight lines read a bent curve high.
        curve = PchipInterpolator(self.moved, self.variances)
        inside = curve(np.clip(moved, 0.0, self.moved[-1]))
        below = np.minimum(moved, 0.0) * self.variances[1] / self.moved[1]
        return [math.inf if m > self.moved[-1] else float(v) for m, v in zip(moved, inside + below, strict=True)]


def _rising(moved: Array) -> list[int]:
    """The places of a curve that rise: too little noise to be seen is left out, and so is all after a reader's end, where it rises
    no further."""
    kept = [0]
    for k in range(1, len(moved)):
        if moved[k] > RISE * moved[kept[-1]]:
            kept.append(k)
        elif len(kept) > 2:
            break
    return kept
