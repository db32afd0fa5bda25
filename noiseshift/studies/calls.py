"""How many network calls a sample takes, counted on a model that costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.wrapping import wrap
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.sampling import sampler_run


def calls_a_sample(checkpoint: Checkpoint, protocol: Protocol) -> int:
    """NFE: the branches that every evaluation of one trajectory asks for.

    Args:
        checkpoint: what is sampled.
        protocol: with its solver and guidance.
    """
    return counted(checkpoint, protocol, lambda model, here: sampler_run(model, checkpoint, here, range(1)))


def counted(checkpoint: Checkpoint, protocol: Protocol, walk: Callable[[Model, Protocol], Iterator[Step]]) -> int:
    """The branches that one trajectory of `walk(model, protocol on the CPU)` asks for.

    Args:
        checkpoint: whose model's shape and times the walk has.
        protocol: with its guidance.
        walk: called as (model, protocol); its steps are gone through.
    """
    counting = BlankModel(checkpoint.model)
    *_, _last = walk(counting.model, replace(protocol, device="cpu"))
    weights = protocol.guidance.weights if protocol.guidance else None
    return sum(len(weights(t)) if weights else 1 for t in counting.times)


class BlankModel:
    """A model that knows nothing, has all branches, costs nothing, and remembers its calls."""

    def __init__(self, model: Model):
        self.times: list[Tensor] = []
        self.rows = 0
        self.model = wrap(
            self._answer,
            model.schedule,
            predicts="x0",
            blind=self._without_level,
            levels=_levels(model),
            unconditional=True,
        )

    def _answer(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.times.append(t.flatten()[0])
        return self._without_level(x, cond)

    def _without_level(self, x: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        return 0.5 * x


def _levels(model: Model) -> Tensor | None:
    return getattr(model, "levels", None)
