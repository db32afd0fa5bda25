"""Samplers as generators of states: `for step in sample(model, x, times): ...`; t runs from 1 (noise) to 0 (data)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from noiseshift.models import Prediction


@dataclass(frozen=True)
class Step:
    """One state of a run: `x` (B, …) lives at time `t` (shape (), after any churn); `prediction` is what the model said
    of it (None for the last state). `internal` marks evaluations inside a second-order step."""

    index: int
    t: Tensor
    x: Tensor
    prediction: Prediction | None = None
    internal: bool = False
