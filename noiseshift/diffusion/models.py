"""Models: what predicts (x0, eps) from a state and a level; `wrapping.wrap` makes one of any callable.

A `Prediction` is what a model says (`predictions`), `Guidance` a set of branch weights that sum to 1 (`scales`); `Guided`
mixes the branches in one batched forward and is itself a model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from noiseshift.diffusion.predictions import (
    FULL,
    NOISE_UNCONDITIONAL,
    READ,
    UNCONDITIONAL,
    Branch,
    GuidedPrediction,
    Prediction,
    Predicts,
    require_some,
)
from noiseshift.diffusion.scales import Guidance, LogProb, Scale, Within, scale_at
from noiseshift.diffusion.schedules import Schedule

__all__ = [
    "FULL",
    "NOISE_UNCONDITIONAL",
    "READ",
    "UNCONDITIONAL",
    "Branch",
    "Guidance",
    "Guided",
    "GuidedPrediction",
    "LogProb",
    "Model",
    "Prediction",
    "Predicts",
    "Scale",
    "Within",
    "Wrapped",
    "as_time",
    "checked",
    "gradient",
    "nearest",
    "require",
    "require_states",
]


@runtime_checkable
class Model(Protocol):
    """Anything that predicts (x0, eps) from a state and a level."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def branches(self) -> frozenset[Branch]:
        """The branches that the model was trained for."""
        ...

    @property
    def predicts(self) -> Predicts:
        """The space it was trained in; a noise-unconditional answer means what it means only there."""
        ...

    def snap(self, t: Tensor) -> Tensor:
        """The nearest times the model knows; the identity for a continuous model."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """The full branch; x (B, …), t () or (B,), cond (B,) or None."""
        ...

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        """Several branches at once, in one forward where the network allows.

        Args:
            x: states (B, …).
            t: conditioning time, () or (B,), in [0, 1].
            cond: (B,) classes, or None.
            branches: some of `branches`.

        Returns:
            A prediction per branch, in their order.
        """
        ...


def require(model: Model, branches: Collection[Branch]) -> None:
    """Raise ValueError, naming the missing branch and the remedy, unless `model` was trained for all of `branches`.

    Args:
        model: what is asked.
        branches: those that are needed.
    """
    missing = [branch for branch in branches if branch not in model.branches]
    if not missing:
        return
    left_out = [what for what, knows in (("noise", missing[0].noise), ("class", missing[0].condition)) if not knows]
    dropped = "-and-".join(left_out) if left_out else "conditional"
    name = f"{dropped}-unconditional" if left_out else dropped
    raise ValueError(
        f"the model has no {name} branch: train or fine-tune it with {dropped}-condition dropout, "
        "or choose a method that does without"
    )


def checked(answer: object, x: Tensor, whose: str, shape: Sequence[int] | None = None) -> Tensor:
    """A network's answer about states x (B, …), in the dtype of x.

    Nothing is broadcast and nothing is guessed: an answer of one row for a whole batch is refused.

    Args:
        answer: what came back.
        x: the states that it is about.
        whose: who answered, for the message.
        shape: what it must have; that of x by default.

    Raises:
        ValueError: an answer that is no real floating-point tensor of that shape on the device of x.
    """
    wanted = tuple(x.shape if shape is None else shape)
    if not isinstance(answer, Tensor):
        remedy = f"return one tensor of shape {wanted}, or say which part it is with output (first, a place, a name)"
        raise ValueError(f"{whose} returned a {type(answer).__name__}: {remedy}")
    if tuple(answer.shape) != wanted:
        raise ValueError(f"{whose} returned a tensor of shape {tuple(answer.shape)}: return one of shape {wanted}")
    if not answer.is_floating_point():
        raise ValueError(f"{whose} returned {answer.dtype} numbers: return floating-point ones, as {x.dtype}")
    if answer.device != x.device:
        raise ValueError(f"{whose} returned a tensor on {answer.device}: return it on {x.device}, where the states are")
    return answer.to(x.dtype)


def require_states(x: Tensor, cond: Tensor | None) -> None:
    """Raise ValueError unless x (B, …) is a batch of floating-point states and `cond` has one entry per row, or is None.

    Args:
        x: states, at least of two axes.
        cond: (B,) classes, a bank's places, or None.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"states must be a floating-point batch (B, …), got {x.dtype} of shape {tuple(x.shape)}")
    if isinstance(cond, Tensor) and cond.shape[:1] != x.shape[:1]:
        raise ValueError(f"cond must have one entry per state, ({len(x)},), got {tuple(cond.shape)}")


def as_time(t: Tensor, x: Tensor) -> Tensor:
    """t on the device of x, float32 or wider: rounding a time to half precision is a noise shift of its own.

    Args:
        t: () or (B,), of any dtype.
        x: (B, …) the states that go with it.
    """
    return t.to(x.device, torch.promote_types(x.dtype, torch.float32))


def nearest(levels: Tensor | None, t: Tensor) -> Tensor:
    """Each t moved to the nearest of the sorted `levels` (K,); the identity for None.

    Args:
        levels: (K,) rising times, or None.
        t: times of any shape, in [0, 1].

    Returns:
        Of the shape of t.
    """
    if levels is None:
        return t
    levels = levels.to(t)
    right = torch.searchsorted(levels, t.contiguous()).clamp(1, len(levels) - 1)
    low, high = levels[right - 1], levels[right]
    return torch.where(t - low < high - t, low, high)


class Wrapped:
    """A model around another: what a subclass does not change passes through."""

    def __init__(self, model: Model):
        self.model = model

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule

    @property
    def branches(self) -> frozenset[Branch]:
        return self.model.branches

    @property
    def predicts(self) -> Predicts:
        return self.model.predicts

    @property
    def range(self) -> tuple[float, float] | None:
        """What black and white are in its states, where not -1 and 1."""
        found: tuple[float, float] | None = getattr(self.model, "range", None)
        return found

    def snap(self, t: Tensor) -> Tensor:
        return self.model.snap(t)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.model(x, t, cond)

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        return self.model.predict(x, t, cond, branches)


class Guided(Wrapped):
    """A model under guidance: one batched forward a model and call, `GuidedPrediction` out; unguided branches pass through.

    Args:
        model: has every branch that the guidance names.
        guidance: such as classifier_free(1.5) + noise_awareness(0.5).

    Raises:
        ValueError: for a model that lacks a branch.
    """

    def __init__(self, model: Model, guidance: Guidance):
        for k, member in enumerate((model, *guidance.models)):
            require(member, [branch._replace(model=0) for branch in guidance.terms if branch.model == k])
        super().__init__(model)
        self.guidance = guidance

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """The mixture at t, which must be the same for the whole batch where a scale depends on it."""
        weights = self.guidance.weights(t)
        parts = self._parts(x, t, cond, tuple(weights))
        full = parts[FULL]
        x0, eps = full.x0, full.eps
        if len(parts) > 1:
            x0 = sum((w * parts[b].x0 for b, w in weights.items()), torch.zeros_like(x0))
            eps = sum((w * parts[b].eps for b, w in weights.items()), torch.zeros_like(eps))
        for log_prob, scale in self.guidance.gradients:
            if (value := scale_at(scale, torch.as_tensor(t).flatten()[0])) != 0:
                require_some(full.level.alpha, "alpha is 0 at this time: end the classifier's interval before t = 1")
                push = value * gradient(log_prob, x, t)
                # score + push, in the pair: eps - sigma push and x0 + sigma² push / alpha.
                x0, eps = x0 + full.level.sigma**2 / full.level.alpha * push, eps - full.level.sigma * push
        return GuidedPrediction(x0, eps, full.level, parts)

    def _parts(
        self, x: Tensor, t: Tensor, cond: Tensor | None, branches: tuple[Branch, ...]
    ) -> dict[Branch, Prediction]:
        """Every branch's prediction, one call per model."""
        parts: dict[Branch, Prediction] = {}
        for k, model in enumerate((self.model, *self.guidance.models)):
            if wanted := [branch for branch in branches if branch.model == k]:
                answers = model.predict(x, t, cond, [branch._replace(model=0) for branch in wanted])
                parts |= dict(zip(wanted, answers, strict=True))
        return parts


def gradient(log_prob: LogProb, x: Tensor, t: Tensor) -> Tensor:
    """∇_x Σ log_prob(x, t), like x; works where gradients are switched off.

    Args:
        log_prob: called as (x, t), gives (B,).
        x: states (B, …).
        t: ().

    Raises:
        ValueError: what it gives is not (B,) floating-point numbers.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_(True)
        value = checked(log_prob(x, t.clone()), x, "the guidance's log p(t | x)", x.shape[:1])
        (slope,) = torch.autograd.grad(value.sum(), x)
    return slope
