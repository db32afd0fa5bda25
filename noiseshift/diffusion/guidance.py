"""Guidance by name: directions that add up, `classifier_free(1.5) + noise_awareness(0.5)`, and run as one batched forward.

**Scale 0 = unguided** everywhere: each direction is s + scale (s - s_weak). A scale is a number, a function of t, or a
number inside an `interval` of t (Kynkäänniemi et al., arXiv 2404.07724).

The space in which a noise-unconditional branch is mixed matters, unlike any other branch's. Its answer averages over t,
and only as a score is s(x|t) + w (s(x|t) - s(x)) literally guidance by ∇ log p(t | x). Read at t, its velocity has a
spurious term (A_t - A_t̂) x, A = α̇/α, and its epsilon a factor σ_t̂/σ_t [own]. `BranchSpace` changes the space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from noiseshift.diffusion.models import (
    FULL,
    NOISE_UNCONDITIONAL,
    READ,
    UNCONDITIONAL,
    Branch,
    Guidance,
    LogProb,
    Model,
    Prediction,
    Predicts,
    Scale,
    Within,
    Wrapped,
    checked,
)

EffectiveLevel = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (B, …), t (), cond) → (B,) each state's effective noise level."""


def classifier_free(scale: Scale, *, interval: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """CFG (Ho & Salimans, arXiv 2207.12598): + scale (s(x|t,c) - s(x|t)).

    Args:
        scale: 0 = unguided; a number or a function of t. diffusers' `guidance_scale` is 1 + scale.
        interval: times between which it acts.

    Returns:
        A guidance, for `Guided`.

    Raises:
        ValueError: for an interval that does not run from low to high t.
    """
    return Guidance({UNCONDITIONAL: (_within(scale, interval),)})


def noise_awareness(scale: Scale, *, interval: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """Noise awareness guidance (arXiv 2510.12497): + scale (s(x|t,c) - s(x|c)).

    The noise-unconditional branch is mixed in the space that the model answers in, read at the scheduled t; see `BranchSpace`.

    Args:
        scale: 0 = unguided; a number or a function of t.
        interval: times between which it acts.

    Returns:
        A guidance, for `Guided`.

    Raises:
        ValueError: for an interval that does not run from low to high t.
    """
    return Guidance({NOISE_UNCONDITIONAL: (_within(scale, interval),)})


def domain(pretrained: Model, scale: Scale, *, interval: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """Domain guidance (Zhong et al., arXiv 2504.01521): + scale (s(x|t,c) - s_pretrained(x|t)), for a fine-tuned model.

    Args:
        pretrained: the model before fine-tuning. Its unconditional branch is taken, or its only branch where it has none.
        scale: 0 = unguided; a number or a function of t.
        interval: times between which it acts.

    Returns:
        A guidance, for `Guided`.

    Raises:
        ValueError: for an interval that does not run from low to high t.
    """
    branch = UNCONDITIONAL if UNCONDITIONAL in pretrained.branches else FULL
    return Guidance({branch._replace(model=1): (_within(scale, interval),)}, (pretrained,))


def autoguidance(weak: Model, scale: Scale, *, interval: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """Autoguidance (Karras et al., arXiv 2406.02507): + scale (s(x|t,c) - s_weak(x|t,c)).

    Args:
        weak: a smaller or less trained model of the same data.
        scale: 0 = unguided; a number or a function of t.
        interval: times between which it acts.

    Returns:
        A guidance, for `Guided`.

    Raises:
        ValueError: for an interval that does not run from low to high t.
    """
    return Guidance({FULL._replace(model=1): (_within(scale, interval),)}, (weak,))


def classifier_noise_awareness(
    log_prob: LogProb, scale: Scale, *, interval: tuple[float, float] = (0.0, 0.95)
) -> Guidance:
    """Classifier-based NAG (arXiv 2510.12497): + scale ∇_x log p(t|x) from any differentiable estimator.

    Do not measure the result with the same network: that is circular.

    Args:
        log_prob: called as log_prob(x, t) → (B,), such as `estimators.Network.log_prob`.
        scale: 0 = unguided; a number or a function of t.
        interval: times between which it acts. By default it is off near t = 1, where alpha = 0 and a score says nothing of x0.

    Returns:
        A guidance, for `Guided`.

    Raises:
        ValueError: for an interval that does not run from low to high t.
    """
    return Guidance(gradients=((log_prob, _within(scale, interval)),))


def _within(scale: Scale, interval: tuple[float, float]) -> Scale:
    low, high = interval
    if not low <= high:
        raise ValueError(f"the guidance interval must run from low to high t, got {low} … {high}")
    if (low, high) == (0.0, 1.0):
        return scale
    return Within(scale, low, high)


def in_words(description: Mapping[str, Any] | None) -> str:
    """A guidance's description, as a manifest keeps it, in words: `cfg=1, nag=0.5 for t in [0, 0.6]`; `none` without.

    Also reads what older manifests kept: the weights at t = 0.5 under the text of each branch.
    """
    if description is None:
        return "none"
    if "terms" not in description:
        old = {"(True, False, 0)": "cfg", "(False, True, 0)": "nag"}
        parts = [f"{old[key]}={-weight:g}" for key, weight in description.items() if key in old and weight]
        return ", ".join(parts) or "other"
    terms = [(_name(term), scale) for term in description["terms"] for scale in term["scales"]]
    terms += [("classifier-nag", each["scale"]) for each in description["gradients"]]
    return ", ".join(f"{name}={_scale_in_words(scale)}" for name, scale in terms if scale != 0) or "none"


def _name(term: Mapping[str, Any]) -> str:
    """What a direction away from a branch is called."""
    if term["model"]:
        return "autoguidance" if term["condition"] else "dog"
    return {(True, False): "cfg", (False, True): "nag"}.get((term["noise"], term["condition"]), "other")


def _scale_in_words(scale: Any) -> str:
    if not isinstance(scale, Mapping):
        return f"{scale:g}"
    if "interval" not in scale:
        return f"function {scale['values'][:8]}"
    low, high = scale["interval"]
    return f"{_scale_in_words(scale['scale'])} for t in [{low:g}, {high:g}]"


class BranchSpace(Wrapped):
    """A model whose noise-unconditional answers are handed over in another `space` than it was trained in.

    An answer in the space of its training is first read at the state's effective noise level, `effective_level(x, t, cond)`,
    then taken over to the scheduled t as a velocity, an epsilon or a score.

    Args:
        model: has a noise-unconditional branch.
        space: one of velocity, epsilon, x0, score and v_prediction. In the model's own space nothing needs to be read: use
            the model itself.
        effective_level: reads the level of each state, such as `alternatives.EstimatedLevel`.

    Raises:
        ValueError: for an unknown space.
    """

    def __init__(self, model: Model, space: Predicts, effective_level: EffectiveLevel):
        if space not in READ:
            raise ValueError(f"space must be one of {', '.join(READ)}, got {space!r}")
        super().__init__(model)
        self.space = space
        self.effective_level = effective_level

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        answers = self.model.predict(x, t, cond, branches)
        return tuple(
            answer if branch.noise else self._reread(answer, x, t, cond)
            for answer, branch in zip(answers, branches, strict=True)
        )

    def _reread(self, answer: Prediction, x: Tensor, t: Tensor, cond: Tensor | None) -> Prediction:
        effective_level = checked(self.effective_level(x, t, cond), x, "the reading of the states' levels", x.shape[:1])
        effective = self.schedule(effective_level.double()).like(x)
        there = READ[self.model.predicts](in_space(answer, self.model.predicts), x, effective)
        return READ[self.space](in_space(there, self.space), x, answer.level)


def in_space(prediction: Prediction, space: Predicts) -> Tensor:
    """A prediction's value as a velocity, an epsilon, an x0, a score or a v-prediction.

    Args:
        prediction: the pair (x0, eps) at a level.
        space: one of `READ`: "velocity", "epsilon", "x0", "score" or "v_prediction".

    Returns:
        (B, …).
    """
    name = {"epsilon": "eps", "v_prediction": "v"}.get(space, space)
    value: Tensor = getattr(prediction, name)
    return value
