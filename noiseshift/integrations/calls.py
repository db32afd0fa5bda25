"""Watching a network while another library's sampler, or an ODE solver, calls it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from noiseshift.diffusion.models import Model, Prediction
from noiseshift.estimators.posterior import Estimator
from noiseshift.integrations.adapters import Adapted, Call
from noiseshift.integrations.recorder import FinalSamples, Recorder, distinct, spread

SLACK = 1e-6
"""Two times closer than this are the same call level: solvers step by one unit in the last place around a stage."""


class CallObserver(Recorder):
    """Records the states that a network is called on, each with its *conditioning* time (after any churn).

    Modules are watched by a forward hook: pass the library its own object as ever. Other callables are watched through
    this object: hand it to the solver, `odeint(seen, x, t)`.

    Which calls are states of the run, and which lie inside a step? With `times`, the sampler's own grid in the library's
    units, the last call before the run passes below a grid point is that point's state; Heun's trial point, DPM-2's
    midpoint and Runge–Kutta stages are left out. Without, a call is a state unless the next one is at as much noise or
    more, which takes out Heun's trial points and a predictor–corrector's first evaluations, but no midpoints. Under
    times="accepted", for dopri5 and other pairs whose last stage is the next step's first, the second of two calls at
    one time is an accepted step unless the solver then goes back; such runs differ in their times, so observe one.

    A new run begins where the noise is back at the first call's from less than half of it. Rows that guidance doubles are
    counted once, by their first half. The `report()` without real samples re-noises the last call's x0, which is where
    a last Euler step lands.
    """

    def __init__(
        self,
        model: Adapted,
        estimators: Mapping[str, Estimator] | None = None,
        *,
        points: int = 8,
        times: Tensor | Literal["accepted"] | None = None,
    ):
        super().__init__(model.schedule, estimators)
        self.observed, self.points, self.mode = model, points, times
        self.grid: list[float] | None = None
        if isinstance(times, Tensor):
            grid = [float(model.of_time(time.double().cpu())) for time in times]
            # No call starts at a grid's last point: the run ends there.
            self.grid = sorted(grid, reverse=True)[:-1]
            inside = [place for place, t in enumerate(self.grid) if 0 < t < 1]
            self._chosen = {inside[k] for k in spread(len(inside), points)}
        self._hook: Any = None
        self._ends: list[tuple[Tensor, Tensor | None]] = []
        self._restart()

    def _restart(self) -> None:
        self._pending: _CallRecord | None = None
        self._last: _CallRecord | None = None
        self._first, self._lowest, self._place, self._rows = 0.0, 2.0, 0, 0

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
        if self._lowest <= self._first / 2 + SLACK and t >= self._first - SLACK:
            self._finish()
        if not self._rows:
            self._first, self._rows = t, distinct(call.x)
        current = self._call_record(t, call, output)
        self._lowest, self._last = min(self._lowest, t), current
        self._settle(t)
        if self.grid is None or (self._place < len(self.grid) and t >= self.grid[self._place] - SLACK):
            self._pending = current

    def _call_record(self, t: float, call: Call, output: Any) -> _CallRecord:
        rows, cond = self._rows, call.cond
        # A copy: samplers step in place.
        x = call.x[:rows].detach().clone()
        prediction = self.observed.read_call(Call(x, call.time), self.observed.value(output)[:rows])
        repeated = self._last is not None and abs(self._last.t - t) < SLACK
        return _CallRecord(t, x, prediction, cond[:rows] if isinstance(cond, Tensor) and cond.ndim else cond, repeated)

    def _settle(self, t: float | None) -> None:
        """Whether the call before this one, at t, was a state of the run; None when there is no further call."""
        pending = self._pending
        if pending is None:
            return
        below = pending.t if self.grid is None else self.grid[self._place]
        left = t is None or t < below - SLACK
        self._pending = None  # where the point was not left, the next call takes its place
        if left and (self.mode is None or pending.repeated or self.grid is not None):
            if self.grid is None or self._place in self._chosen:
                self.record(pending.x, pending.t, pending.prediction)
            self._place += 1

    def _finish(self) -> None:
        self._settle(None)
        if self._last is not None:
            self._ends.append((self._last.prediction.x0, self._last.cond))
        self._restart()


class _CallRecord(NamedTuple):
    t: float
    x: Tensor
    prediction: Prediction
    cond: Any
    repeated: bool  # at the time of the call before
