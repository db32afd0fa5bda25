"""What a sampler yields and what it is given: a `Step` is one state of a run, a `Noise` the randomness of its updates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noiseshift.diffusion.models import Model, Prediction, as_time, checked
from noiseshift.diffusion.noise import Source, normal, torch_generator

Noise = Callable[[Tensor], Tensor]
"""Called with a state (B, …); returns fresh standard normal noise like it."""


@dataclass(frozen=True)
class Step:
    """One state of a run.

    Attributes:
        index: its place in the run, from 0 at pure noise.
        t: its conditioning time, (), after any churn.
        x: the state (B, …).
        prediction: the model's for it; None for the last state.
        internal: whether it is an evaluation inside a second-order step, not a state of the run.
        first: the sample index of row 0, where whoever reads the states knows it: estimators that draw at random draw by it.
    """

    index: int
    t: Tensor
    x: Tensor
    prediction: Prediction | None = None
    internal: bool = False
    first: int = 0


@dataclass(frozen=True)
class PerSampleNoise:
    """Noise for `sample`: row i always draws from generator i, so its noise does not depend on the batch around it."""

    generators: Sequence[Source]

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        return normal(self.generators, x.shape[1:]).to(x)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless there is one generator per row: a single one would give all rows the same noise."""
        if len(self.generators) != len(x):
            raise ValueError(f"noise needs one generator per sample: got {len(self.generators)} for {len(x)} samples")

    @functools.cached_property
    def torch_generators(self) -> list[torch.Generator]:
        """One per row, for code that draws by torch alone; made once, so that every step goes on where the last ended."""
        return [torch_generator(source) for source in self.generators]


def per_sample_noise(generators: Sequence[Source]) -> Noise:
    """See `PerSampleNoise`. `generators` are torch's, or those of `noise.generators`."""
    return PerSampleNoise(generators)


NEEDS_NOISE = (
    "this sampler is stochastic: pass noise=torch.Generator(), or samplers.per_sample_noise(generators), one per sample"
)


def no_noise(x: Tensor) -> Tensor:
    raise ValueError(NEEDS_NOISE)


def predict_at(model: Model, x: Tensor, t: Tensor, cond: Tensor | None) -> Prediction:
    """A model's prediction for states x (B, …) at one time t. Raises ValueError where that has not their shape or is not finite.

    Args:
        model: what is called.
        x: states (B, …).
        t: ().
        cond: (B,) classes, or None.
    """
    prediction = model(x, as_time(t, x), cond)
    for value in (prediction.x0, prediction.eps):
        finite(checked(value, x, "the model"), t, "the model's answer")
    return prediction


def finite(x: Tensor, t: Tensor, what: str) -> Tensor:
    """x (B, …) itself. Raises ValueError, naming t, where it holds NaN or infinity.

    Args:
        x: states, data or noise.
        t: (), for the message.
        what: names x, at the start of the message.
    """
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        where = f"at t = {float(t):.4f} in {bad} of {len(x)} rows"
        raise ValueError(f"{what} is not finite {where}: try --precision fp32, more steps or less guidance")
    return x
