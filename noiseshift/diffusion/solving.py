"""What a solver is: an update together with the times it is run at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from noiseshift.diffusion import samplers
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled, Update

MOST = 100_000
"""Most steps of a sampler: a hundred times the finest table of levels."""


class Sampled(Protocol):
    """What a solver may be bound to: a checkpoint, whose folder may bring a sampler of its own.

    Attributes:
        model: the model that is sampled.
        sampler: makes the sampler of n steps that the folder's pipeline takes, or None.
        card: what is known of the checkpoint; its `provenance` names the folder's scheduler.
    """

    @property
    def model(self) -> Model: ...

    @property
    def sampler(self) -> Callable[[int], Scheduled] | None: ...

    @property
    def card(self) -> Any: ...


@dataclass(frozen=True)
class Solver:
    """An update and the times it is run at; see the constructors below.

    Raises ValueError for fewer than 2 steps or more than `MOST`.

    Attributes:
        steps: how many steps it takes from noise to data, at least 2: else there is no state between the two.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(
                f"{self.name!r}: take at least 2 steps, or there is no state between noise and data to read"
            )
        if self.steps > MOST:
            raise ValueError(f"{self.steps:g} steps are more than any sampler takes: give at most {MOST:,}")

    @property
    def name(self) -> str:
        """Its word."""
        raise NotImplementedError

    def update(self) -> Update | Scheduled:
        """A fresh update: some keep a history."""
        raise NotImplementedError

    def grid(self, model: Model) -> Tensor | None:
        """Its times on a model, (N,) float64 falling from 1 to 0, or None where the update brings its own."""
        return samplers.time_grid(model, self.steps)

    @property
    def order(self) -> int | None:
        """Its weak order: its error falls as steps^-order. None where it is not known."""
        return 1

    def reference(self) -> Update | None:
        """The update whose fine run from the same noise it converges to, or None where there is none."""
        return None

    def finer(self, factor: int) -> Solver | None:
        """A solver of the same final samples, for `factor` times the network calls; None where none is known. Raises ValueError
        where it cannot take so many steps."""
        return self.with_steps(factor * self.steps)

    def with_steps(self, steps: int) -> Solver:
        """The same solver with another number of steps. Raises ValueError where it cannot take so many."""
        return replace(self, steps=steps)

    def bound(self, checkpoint: Sampled) -> Solver:
        """The solver with what it takes from a checkpoint; itself where that is nothing."""
        return self
