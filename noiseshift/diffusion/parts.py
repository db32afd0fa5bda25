"""A user's model, evaluated on as many rows at a time as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from noiseshift.diffusion.memory import Halving, joined
from noiseshift.diffusion.models import Branch, GuidedPrediction, Model, Prediction, Wrapped

Predictions = tuple[Prediction, ...]


class InParts(Wrapped):
    """The same model; where memory does not hold a batch, it is evaluated on parts of it. See `memory.Halving`."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.halving = Halving("the model")

    @property
    def levels(self) -> Tensor | None:
        """(K,) the only times that the model knows, None for a continuum."""
        found: Tensor | None = getattr(self.model, "levels", None)
        return found

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self._in_parts(lambda x, t, cond: (self.model(x, t, cond),), x, t, cond)[0]

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> Predictions:
        return self._in_parts(lambda x, t, cond: self.model.predict(x, t, cond, branches), x, t, cond)

    def _in_parts(
        self, predict_rows: Callable[..., Predictions], x: Tensor, t: Tensor, cond: Tensor | None
    ) -> Predictions:
        if t.ndim:
            found = self.halving(predict_rows, x, t, cond)
        else:
            found = self.halving(lambda x, cond: predict_rows(x, t, cond), x, cond)
        return found[0] if len(found) == 1 else tuple(self._one(x, t, parts) for parts in zip(*found, strict=True))

    def _one(self, x: Tensor, t: Tensor, parts: Sequence[Prediction]) -> Prediction:
        """One prediction of the parts', of the states x (B, …)."""
        x0, eps = joined([part.x0 for part in parts]), joined([part.eps for part in parts])
        level = self.schedule(t).like(x)
        guided = [part for part in parts if isinstance(part, GuidedPrediction)]
        if not guided:
            return Prediction(x0, eps, level)
        named = {branch: self._one(x, t, [part.branches[branch] for part in guided]) for branch in guided[0].branches}
        return GuidedPrediction(x0, eps, level, named)
