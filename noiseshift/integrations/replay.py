"""The network of an observed pipeline as a model: real samples are read by it as the pipeline's own states were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noiseshift.diffusion.models import FULL, Branch, Prediction, Predicts, require
from noiseshift.diffusion.schedulers import Scheduled
from noiseshift.diffusion.schedules import Schedule
from noiseshift.integrations.called import HowCalled, tensor_of


class StateCall(NamedTuple):
    """How the network was called on the states at one level.

    Attributes:
        network: which; a pipeline may hand over to a second one below a level.
        view: the scheduler in our terms.
        factor: our state over the scheduler's own.
        how: its arguments.
        handed: what the scheduler was handed over what the network said.
    """

    network: nn.Module
    view: Scheduled
    factor: float
    how: HowCalled
    handed: float


class Replay:
    """The network of an observed pipeline as a `Model` at the observed times, called as the pipeline called it.

    cond: integers (B,), which observed sample's conditions each row has; None where there are none.

    Args:
        schedule: of the observed states.
        states: how the network was called on the states at each observed time.
        shared: what it was given beside state and time that all samples have in common, by argument.
        rows: conditions that differ between samples, (N, …) by argument.
    """

    predicts: Predicts = "epsilon"
    branches = frozenset([FULL])

    def __init__(
        self,
        schedule: Schedule,
        states: Mapping[float, StateCall],
        shared: Mapping[str, Any],
        rows: Mapping[str, Tensor],
    ):
        self.schedule = schedule
        self.rows = rows
        self._states = dict(states)
        self._shared = dict(shared)
        self._times = torch.tensor(sorted(self._states), dtype=torch.float64)

    def snap(self, t: Tensor) -> Tensor:
        """The nearest observed times."""
        return self._times[(t.double().cpu()[..., None] - self._times).abs().argmin(-1)].to(t)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    @torch.no_grad()
    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        """One t for all rows of x (B, …).

        Args:
            x: states (B, …).
            t: conditioning time; the observed one that is nearest is taken.
            cond: (B,) which observed sample's conditions each row has, or None.
            branches: the full one.
        """
        require(self, branches)
        time = self.snap(t.double().flatten()[:1])[0]
        state = self._states[float(time)]
        level = self.schedule(time)
        given = dict(self._shared)
        if cond is not None:
            given |= {name: value[cond.to(value.device)] for name, value in self.rows.items()}
        inputs = (x / state.factor * state.how.scale).to(next(state.network.parameters()).dtype)
        output = state.handed * tensor_of(state.network(**state.how.arguments(inputs, given)))[:, : x.shape[1]].float()
        x0, eps = state.view.read(output, x, (float(level.alpha), float(level.sigma)))
        return tuple(Prediction(x0, eps, level.like(x)) for _ in branches)
