"""Is the fine detail that a network sees in noisy pictures theirs? Blurred and enlarged pictures have less of it than it learned.

The least-squares denoiser leaves an error that is uncorrelated with what it says, at every spatial frequency (orthogonality):
E[(x0 - found) conj(found)] = 0, so that x0 over `found` has slope 1. A network of sharp pictures adds edges to blurred ones. One
that leaves noise in its own pictures has a low slope too, so this says what to look at, and fails nothing.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.shift.controls import Check

NAME = "fine detail"

SCALES = (0.2, 0.4)
"""Noise over signal, in spreads of the data, at which slopes are judged."""

THEIRS = 0.5
"""A slope below it at both levels, for certain at one of them, is said. Right networks have .91 … 1.02, also with
noise of 5 % on their weights; of blurred pictures, and of ones enlarged from half the size, they have .13 … .45."""


def fine_slope(x0: Tensor, found: Tensor) -> tuple[float, float]:
    """The slope of pictures (N, C, H, W) over what a network made of them, in the finest octave of spatial frequency, and its
    standard error; both NaN where states are no pictures of at least 8×8.

    Args:
        x0: (N, C, H, W) real ones.
        found: the same, as the network has them.
    """
    if x0.ndim != 4 or min(x0.shape[-2:]) < 8:
        return math.nan, math.nan
    true, said = (torch.fft.fft2(rows.double().cpu()) for rows in (x0, found))
    down, across = (torch.fft.fftfreq(side) for side in x0.shape[-2:])
    fine = (down[:, None].square() + across.square()).sqrt() >= 0.5
    common = (true * said.conj()).real.sum(1)[:, fine].sum(1).numpy()
    power = said.abs().square().sum(1)[:, fine].sum(1).numpy()
    if not power.sum() > 0:
        return math.nan, math.nan
    slope = common.sum() / power.sum()
    return float(slope), float((common - slope * power).std(ddof=1) / math.sqrt(len(power)) / power.mean())


def detail(errors: pd.DataFrame) -> Check:
    """Whether the network's fine detail is that of the data: passed where it is, None where it is not or is not known.

    Args:
        errors: as `denoising.error_table` gives it.
    """
    near = np.abs(np.log(errors.scale.to_numpy()[:, None] / np.array(SCALES)))
    judged = errors[(near < 0.2).any(1)]  # times are snapped to what the model knows
    if judged.worse.any() or len(judged) < len(SCALES) or judged.slope.isna().any():
        return Check(NAME, None, "not looked at: these are no pictures, or the network does not denoise them there")
    text = "slope of the finest detail over the network's " + ", ".join(
        f"{row.slope:.2f} at t = {row.t:.2f}" for row in judged.itertuples()
    )
    certain = judged.slope + 3 * judged.slope_error < THEIRS
    if bool((judged.slope < THEIRS).all() and certain.any()):
        more = (
            "the network puts finer detail into these data than they have: either they are blurred, or enlarged from a smaller "
            "size, and must be prepared as in training, or the network leaves noise"
        )
        return Check(NAME, None, f"{more}; {text} (1 is right)")
    return Check(NAME, True, text)
