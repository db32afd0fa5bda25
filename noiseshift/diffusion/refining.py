"""Finer grids under the same path: every step of a run cut into parts, and its noise summed over them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import Source, normal
from noiseshift.diffusion.samplers import Noise


def refine(model: Model, times: Tensor, substeps: int) -> Tensor:
    """Every interval of falling `times` (N,) cut into `substeps` even parts, moved to levels that the model knows.

    Args:
        model: whose levels they are.
        times: (N,) falling, in [0, 1].
        substeps: at least 1; 1 gives `times` back.

    Returns:
        (M,) float64 falling, with all of `times` among them.
    """
    times = times.double()
    share = torch.arange(substeps, dtype=torch.float64) / substeps
    inner = (times[:-1, None] + times.diff()[:, None] * share).flatten()
    known = torch.unique(torch.cat([model.snap(inner).double(), times[:-1]])).flip(0)
    return torch.cat([known[known > times[-1]], times[-1:]])


def refined_noise(generators: Sequence[Source], times: Tensor, fine: Tensor) -> Noise:
    """The noise of a coarse run on `times` that follows the Brownian path of a run on `fine` from equal generators.

    Each coarse draw is Σ √h_i z_i / √Σ h_i over the draws z_i that the fine run makes in that interval.

    Args:
        generators: one per row, in the state in which the fine run's begin.
        times: (N,) falling.
        fine: (M,) falling, with all of `times` among them.
    """
    spans = [
        (-torch.cat([fine[(fine <= a) & (fine > b)], b[None]]).diff()).tolist() for a, b in itertools.pairwise(times)
    ]
    intervals = iter(spans)

    def noise(x: Tensor) -> Tensor:
        parts = next(intervals)
        total = math.sqrt(sum(parts))
        drawn = torch.zeros_like(x)
        for h in parts:
            drawn += math.sqrt(h) / total * normal(generators, x.shape[1:]).to(x)
        return drawn

    return noise
