"""A model whose predicted data are kept within a range."""

from __future__ import annotations

from torch import Tensor

from noiseshift.diffusion.models import Model, Wrapped
from noiseshift.diffusion.predictions import Prediction


class Bounded(Wrapped):
    """Predicted data are clamped before each step, as DDPM's code does (Ho et al., arXiv 2006.11239, `clip_denoised`): near pure
    noise a network that predicts it multiplies its error by 1 / alpha.

    Args:
        model: whose predicted data are clamped.
        low: the least value that data have.
        high: the largest.
    """

    def __init__(self, model: Model, low: float, high: float):
        super().__init__(model)
        self.low = low
        self.high = high

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        plain = self.model(x, t, cond)
        return Prediction.from_x0(plain.x0.clamp(self.low, self.high), x, plain.level)
