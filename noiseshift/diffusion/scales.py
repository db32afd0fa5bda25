"""Guidance as scales: how far a prediction goes from each weaker branch, at each time.

A `Guidance` is a set of branch weights that sum to 1, so that guidances add up; `models.Guided` mixes the branches by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.predictions import FULL, Branch

if TYPE_CHECKING:
    from noiseshift.diffusion.models import Model

Scale = float | Callable[[Tensor], float]


LogProb = Callable[[Tensor, Tensor], Tensor]
"""log p(t | x) of x (B, …) at t () → (B,), differentiable in x."""


@dataclass(frozen=True)
class Guidance:
    """Directions away from weaker branches. Add guidances to combine them.

    **Scale 0 = unguided**: the full branch weighs 1 + Σ w, each other branch -w, so the weights sum to 1. A scale may
    be a function of t; a weight that is 0 at some t costs no forward there.

    Attributes:
        terms: scales by branch; each scale w adds w (full - branch).
        models: the other models; branches of `model` k ≥ 1 are predicted by models[k - 1].
        gradients: (log p(t | x), scale) pairs; each adds scale ∇_x log p(t | x) to the score.
    """

    terms: Mapping[Branch, tuple[Scale, ...]] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    gradients: tuple[tuple[LogProb, Scale], ...] = ()

    def __add__(self, other: Guidance) -> Guidance:
        models = list(self.models)
        places = {0: 0}
        for k, model in enumerate(other.models, start=1):
            if not any(model is known for known in models):
                models.append(model)
            places[k] = 1 + next(i for i, known in enumerate(models) if known is model)
        theirs = {branch._replace(model=places[branch.model]): parts for branch, parts in other.terms.items()}
        merged = {b: self.terms.get(b, ()) + theirs.get(b, ()) for b in {**self.terms, **theirs}}
        return Guidance(merged, tuple(models), self.gradients + other.gradients)

    def weights(self, t: Tensor | float = 0.5) -> dict[Branch, float]:
        """Weight of every branch at time t, the full one first; they sum to 1.

        Raises ValueError when a scale depends on t and a batch brings several times.
        """
        varies = any(callable(scale) for parts in self.terms.values() for scale in parts)
        now = _one_time(t, varies or any(callable(scale) for _, scale in self.gradients))
        scales = {b: sum(scale_at(s, now) for s in parts) for b, parts in self.terms.items()}
        return {FULL: 1 + sum(scales.values()), **{b: -w for b, w in scales.items() if w != 0}}

    def describe(self) -> dict[str, Any]:
        """What decides the guided answer, in plain values: terms with their branches and scales, the other models and the
        gradients by the hash of what they are. Two guidances that could answer differently have different descriptions.
        """
        return {
            "terms": [
                {**branch._asdict(), "scales": [describe_scale(scale) for scale in parts]}
                for branch, parts in self.terms.items()
            ],
            "models": [identity(model) for model in self.models],
            "gradients": [
                {"log_prob": identity(log_prob), "scale": describe_scale(scale)} for log_prob, scale in self.gradients
            ],
        }


@dataclass(frozen=True)
class Within:
    """A scale inside an interval of t, and 0 outside of it.

    Attributes:
        scale: a number, or a function of t.
        low: where the interval starts, itself included.
        high: where it ends, itself included.
    """

    scale: Scale
    low: float
    high: float

    def __call__(self, t: Tensor) -> float:
        # An end is inside in float32 too, where 0.6 is more than 0.6.
        return scale_at(self.scale, t) if self.low - 1e-6 <= float(t) <= self.high + 1e-6 else 0.0


def describe_scale(scale: Scale) -> Any:
    """A scale in plain values: a number, an interval with its scale, or the hashes of a function's values over a grid of t
    and of its code."""
    if isinstance(scale, Within):
        return {"scale": describe_scale(scale.scale), "interval": [scale.low, scale.high]}
    if not callable(scale):
        return float(scale)
    return {"values": identity([_tried(scale, t) for t in torch.linspace(0, 1, 1001)]), "function": identity(scale)}


def _tried(scale: Callable[[Tensor], float], t: Tensor) -> float | str:
    try:
        return float(scale(t))
    except Exception as error:  # a user's function may know some times only, and raise anything at the others
        return type(error).__name__


def _one_time(t: Tensor | float, varies: bool) -> Tensor:
    times = torch.as_tensor(t).flatten()
    if varies and bool((times != times[0]).any()):
        raise ValueError("this guidance depends on t: give every row of a batch the same t")
    return times[0]


def scale_at(scale: Scale, t: Tensor) -> float:
    """The scale at time t, ().

    Args:
        scale: a number, or a function of t.
        t: ().
    """
    return float(scale(t)) if callable(scale) else scale
