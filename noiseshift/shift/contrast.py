"""Have the data the contrast that the network learned? Its answer about their noisy states is drawn to its own.

The least-squares denoiser leaves an error that is uncorrelated with what it says: the slope of the true states over its answers
is 1 at every level, about any fixed state. On data of less contrast than its own the answers have too much, and the slope is
below 1, the more so where there is more noise.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from noiseshift.estimators.instrument import Array
from noiseshift.shift.controls import Check

NAME = "contrast"

LEVELS = (0.7, 3.5)
"""Noise over signal, in spreads of the data, between which slopes are judged: with less the state itself shows the contrast."""

LEAST, MOST = 0.92, 1.08
"""Slopes beyond which it fails, for certain. The bundled networks have .99 … 1.01, a stranger's that samples badly .96."""

CERTAIN, ENOUGH = 4.0, 2.5
"""Standard errors from 1; the fewer of pictures that do not fill their range, which is a second sign of less contrast."""


def products(x0: Tensor, found: Tensor) -> Array:
    """(N, 2) of each row: the product of the states with the answers about them, and of the answers with themselves, about the
    answers' mean.

    Args:
        x0: (N, …) real states.
        found: (N, …) as the network has them.
    """
    true, said = (rows.flatten(1).double().cpu() for rows in (x0, found))
    middle = said.mean(0)
    true, said = true - middle, said - middle
    pairs: Array = np.stack([(true * said).sum(1).numpy(), said.square().sum(1).numpy()], 1)
    return pairs


def contrast(scales: Array, slopes: Array, worse: bool, *, filled: bool = True) -> Check:
    """Whether the data have the network's contrast: failed where it is another for certain.

    Args:
        scales: (T,) noise over signal at each level, in spreads of the data.
        slopes: (N, T, 2) `products` of each row at each level.
        worse: whether the network is worse than the linear denoiser at a level, or these are no pictures: nothing can be said.
        filled: whether pictures have both black and white among them.
    """
    judged = (scales > LEVELS[0]) & (scales < LEVELS[1])
    if worse or not judged.any() or len(slopes) < 8:
        return Check(
            NAME, None, "not judged: these are no pictures, the network does not denoise them, or there are too few"
        )
    common, power = slopes[:, judged, 0], slopes[:, judged, 1]
    slope = common.sum(0) / power.sum(0)
    rows = ((common - slope * power) / power.mean(0)).mean(1)
    middle = float(slope.mean())
    error = max(float(rows.std(ddof=1)) / math.sqrt(len(rows)), 1e-12)
    text = f"slope of these data over what the network makes of them {middle:.3f} ± {2 * error:.3f} (1 is right)"
    apart = (middle - 1) / error
    dimmed = not filled and apart < -ENOUGH
    if dimmed or (abs(apart) > CERTAIN and not LEAST < middle < MOST):
        kind = "less" if middle < 1 else "more"
        remedy = "give them as they were in training: the same range, brightness and preparation"
        return Check(NAME, False, f"the data have {kind} contrast than the network learned: {text}; {remedy}")
    return Check(NAME, True, text)
