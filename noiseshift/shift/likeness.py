"""Do a model's samples look like these data? Statistics that need no features and no training.

A model of other data can denoise these well (a network of handwritten digits has a noise error of .12 on pictures of clothes),
and is then given a shift that is not there. Its samples tell: their mean, spread and spectrum are those of its own data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noiseshift.estimators.instrument import Array

PERMUTATIONS = 200


@dataclass(frozen=True)
class Likeness:
    """How far samples are from data.

    Attributes:
        mean: squared distance of the two mean states, over the variance of the data; what few rows add is taken off.
        spread: total variance of the samples over that of the data.
        spectrum: largest absolute log ratio of the power in octaves of spatial frequency; NaN where states are no pictures.
        energy: energy distance (Székely & Rizzo, 2013) over the mean distance of two rows of the data: 0 for one distribution.
        p: share of random relabellings of the rows that have as large an energy distance.
    """

    mean: float
    spread: float
    spectrum: float
    energy: float
    p: float


def likeness(samples: Tensor, data: Tensor, *, seed: int = 0) -> Likeness:
    """Compare samples (N, …) with data (M, …) of the same classes in equal number.

    Args:
        samples: (N, …).
        data: (M, …) real ones.
        seed: of the permutations.

    Raises:
        ValueError: for fewer than 8 rows, or rows of another shape.
    """
    if min(len(samples), len(data)) < 8 or samples.shape[1:] != data.shape[1:]:
        raise ValueError(f"compare at least 8 rows of one shape, got {tuple(samples.shape)} and {tuple(data.shape)}")
    ours, theirs = (rows.flatten(1).double().cpu() for rows in (samples, data))
    variance = float(theirs.var(0).sum())
    chance = float(ours.var(0).sum()) / len(ours) + variance / len(theirs)
    energy, p = _energy(torch.cat([ours, theirs]), len(ours), seed)
    return Likeness(
        mean=(float((ours.mean(0) - theirs.mean(0)).square().sum()) - chance) / variance,
        spread=float(ours.var(0).sum()) / variance,
        spectrum=_spectral_distance(samples, data),
        energy=energy,
        p=p,
    )


def _energy(rows: Tensor, split: int, seed: int) -> tuple[float, float]:
    """The energy distance of rows[:split] and rows[split:], over the mean distance within the latter; and its p."""
    distances = torch.cdist(rows, rows).numpy()
    rng = np.random.default_rng(seed)
    observed = _energy_of(distances, np.arange(len(rows)), split)
    drawn = [_energy_of(distances, rng.permutation(len(rows)), split) for _ in range(PERMUTATIONS)]
    within = distances[split:, split:].sum() / ((len(rows) - split) * (len(rows) - split - 1))
    return observed / within, (1 + sum(value >= observed for value in drawn)) / (1 + PERMUTATIONS)


def _energy_of(distances: Array, order: Array, split: int) -> float:
    first, second = order[:split], order[split:]
    between = distances[np.ix_(first, second)].mean()
    inside = sum(distances[np.ix_(part, part)].sum() / (len(part) * (len(part) - 1)) for part in (first, second))
    return float(2 * between - inside)


def _spectral_distance(samples: Tensor, data: Tensor) -> float:
    if data.ndim != 4 or min(data.shape[-2:]) < 4:
        return math.nan
    return float((_octaves(samples).log() - _octaves(data).log()).abs().max())


def _octaves(pictures: Tensor) -> Tensor:
    """Mean power of pictures (N, C, H, W) in octaves of spatial frequency, without the constant."""
    rows = pictures.double().cpu()
    power = torch.fft.fft2(rows - rows.mean(0)).abs().square().mean((0, 1))
    height, width = power.shape
    across, down = torch.fft.fftfreq(width), torch.fft.fftfreq(height)
    octave = (down[:, None].square() + across.square()).sqrt().mul(2).log2().floor().clamp(-4, 0)
    octave[0, 0] = 1  # the constant is the mean's
    bands = [power[octave == k] for k in octave.unique() if k <= 0]
    return torch.stack([band.mean() for band in bands]).clamp_min(1e-12)
