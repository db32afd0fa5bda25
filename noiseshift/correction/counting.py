"""What a method costs: rows that the network and the level estimator evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from noiseshift.diffusion.models import Branch, Model, Prediction, Wrapped


class CountingModel(Wrapped):
    """Counts the rows that the network evaluates: a forward of B states on k branches is kB."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.rows = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        self.rows += len(x)
        return self.model(x, t, cond)

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        self.rows += len(x) * len(branches)
        return self.model.predict(x, t, cond, branches)


class CountingLevel:
    """Counts the states that a level estimator's `function` (x (B, …), …) evaluates; with its gradient is once."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self.rows = 0

    def __call__(self, x: Tensor, *rest: Any) -> Tensor:
        self.rows += len(x)
        return self.function(x, *rest)
