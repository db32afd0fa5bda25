"""Watching a network while another library's sampler, or an ODE solver, calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noiseshift.diffusion.models import Model
from noiseshift.estimators.instrument import Readers
from noiseshift.integrations.adapters import Adapted, Call
from noiseshift.integrations.recorder import FinalSamples, Recorder, distinct, spread
from noiseshift.integrations.stages import SLACK, Accepted, CallRecord, Falling, OnGrid, Stages


class CallObserver(Recorder):
    """Records the states that a network is called on, each with its *conditioning* time (after any churn).

    Modules are watched by a forward hook: pass the library its own object as ever. Other callables are watched through
    this object: hand it to the solver, `odeint(seen, x, t)`.

    Which calls are states of the run, and which lie inside a step? With `times`, the last call before the run passes below a
    grid point is that point's state; Heun's trial point, DPM-2's midpoint and Runge–Kutta stages are left out. Without, a call
    is a state unless the next one is at as much noise or more, which takes out Heun's trial points and a predictor–corrector's
    first evaluations, but no midpoints. Under times="accepted", for dopri5 and other pairs whose last stage is the next step's
    first, the second of two calls at one time is an accepted step unless the solver then goes back; such runs differ in their
    times, so observe one.

    A new run begins where the noise is back at the first call's from less than half of it. Rows that guidance doubles are
    counted once, by their first half. The `report()` without real samples re-noises the last call's x0, which is where
    a last Euler step lands.

    Args:
        model: one of `ns.adapters`.
        estimators: what reads the states as they pass, by name: instruments, or bare estimators, which `report` calibrates.
        points: how many times of a run are read.
        times: the sampler's own grid in the library's units, "accepted", or None.
    """

    def __init__(
        self,
        model: Adapted,
        estimators: Readers | None = None,
        *,
        points: int = 8,
        times: Tensor | Literal["accepted"] | None = None,
    ):
        super().__init__(model.schedule, estimators)
        self.observed = model
        self.points = points
        self._rule = self._rule_of(times)
        self._run: _Run | None = None
        self._hook: Any = None
        self._ends: list[tuple[Tensor, Any]] = []

    def _rule_of(self, times: Tensor | Literal["accepted"] | None) -> Callable[[], Stages]:
        """What makes a run's rule, from the `times` that were given."""
        if times is None:
            return Falling
        if not isinstance(times, Tensor):
            return Accepted
        # No call starts at a grid's last point: the run ends there.
        grid = sorted((float(self.observed.of_time(time.double().cpu())) for time in times), reverse=True)[:-1]
        inside = [place for place, t in enumerate(grid) if 0 < t < 1]
        chosen = {inside[k] for k in spread(len(inside), self.points)}
        return lambda: OnGrid(grid, chosen)

    def __enter__(self) -> CallObserver:
        if isinstance(self.observed.network, nn.Module):
            self._hook = self.observed.network.register_forward_hook(self._called, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._finish()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network itself, watched."""
        output = self.observed.network(*args, **kwargs)
        if self._hook is None:
            self._called(None, args, kwargs, output)
        return output

    @property
    def times(self) -> Tensor:
        """(K,) the conditioning times that a report is made of, falling: at most `points` of those recorded."""
        every = super().times
        return every[spread(len(every), self.points)]

    def model(self) -> Model:
        return self.observed

    def final_samples(self) -> FinalSamples | None:
        self._finish()
        if not self._ends:
            return None
        conds = [cond for _, cond in self._ends if cond is not None]
        return FinalSamples(torch.cat([x for x, _ in self._ends]), torch.cat(conds) if conds else None, self.observed)

    @torch.no_grad()
    def _called(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self.observed.call_of(args, kwargs)
        t = float(self.observed.of_time(call.time.detach().double().flatten()[0].cpu()))
        if self._run is not None and self._run.begins_anew(t):
            self._finish()
        if self._run is None:
            self._run = _Run(self._rule(), t, distinct(call.x))
        record = self._record_of(t, call, output, self._run.rows)
        self._run.last = record
        self._run.lowest = min(self._run.lowest, t)
        self._keep(self._run.rule.offer(record))

    def _record_of(self, t: float, call: Call, output: Any, rows: int) -> CallRecord:
        # A copy: samplers step in place.
        x = call.x[:rows].detach().clone()
        prediction = self.observed.read_call(Call(x, call.time), self.observed.value(output)[:rows])
        cond = call.cond
        return CallRecord(t, x, prediction, cond[:rows] if isinstance(cond, Tensor) and cond.ndim else cond)

    def _keep(self, state: CallRecord | None) -> None:
        if state is not None:
            self.record(state.x, state.t, state.prediction)

    def _finish(self) -> None:
        run = self._run
        self._run = None
        if run is not None:
            self._keep(run.rule.end())
            if run.last is not None:
                self._ends.append((run.last.prediction.x0, run.last.cond))


@dataclass
class _Run:
    """One run of the sampler while it goes on.

    Attributes:
        rule: which of its calls are states.
        first: the conditioning time of its first call.
        rows: how many samples it has.
        lowest: the least conditioning time so far.
        last: its latest call.
    """

    rule: Stages
    first: float
    rows: int
    lowest: float = 2.0
    last: CallRecord | None = None

    def begins_anew(self, t: float) -> bool:
        """Whether a call at t starts another run: the noise is back at the first call's from less than half of it."""
        return self.lowest <= self.first / 2 + SLACK and t >= self.first - SLACK
