"""Which calls of a network are states of a run, and which lie inside a step: Heun's trial point, a Runge–Kutta stage.

A rule takes the calls as they come, `offer(call)`, and gives the call before back where that was a state. `end()` gives
what is still open when the run is over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from noiseshift.diffusion.models import Prediction

SLACK = 1e-6
"""Two times closer than this are the same call level: solvers step by one unit in the last place around a stage."""


@dataclass(frozen=True, eq=False)
class CallRecord:
    """One call: a state x (B, …) at its conditioning time t, what the network said, and its conditions, if any.

    Attributes:
        t: conditioning time, in [0, 1].
        x: (B, …) the state, as the schedule has it.
        prediction: the network's.
        cond: (B,) the conditions, or None.
    """

    t: float
    x: Tensor
    prediction: Prediction
    cond: Any


class Stages(Protocol):
    """A rule for one run."""

    def offer(self, call: CallRecord) -> CallRecord | None: ...

    def end(self) -> CallRecord | None: ...


class Falling:
    """A call is a state unless the next one is at as much noise or more. Midpoints pass for states."""

    def __init__(self) -> None:
        self.open: CallRecord | None = None

    def offer(self, call: CallRecord) -> CallRecord | None:
        before = self.open
        self.open = call
        return before if before is not None and call.t < before.t - SLACK else None

    def end(self) -> CallRecord | None:
        last = self.open
        self.open = None
        return last


class Accepted:
    """The second of two calls at one time is an accepted step, unless the solver then goes back (dopri5 and its like)."""

    def __init__(self) -> None:
        self.calls = Falling()
        self.repeated = False

    def offer(self, call: CallRecord) -> CallRecord | None:
        before = self.calls.open
        accepted = self.repeated
        self.repeated = before is not None and abs(before.t - call.t) < SLACK
        state = self.calls.offer(call)
        return state if accepted else None

    def end(self) -> CallRecord | None:
        state = self.calls.end()
        return state if self.repeated else None


class OnGrid:
    """The last call before the run passes below a grid point is that point's state.

    Args:
        grid: the points' conditioning times, falling, without the last, where the run ends.
        chosen: which of them are read.
    """

    def __init__(self, grid: Sequence[float], chosen: Collection[int]):
        self.grid = grid
        self.chosen = chosen
        self.place = 0
        self.open: CallRecord | None = None

    def offer(self, call: CallRecord) -> CallRecord | None:
        passed = self.place < len(self.grid) and call.t < self.grid[self.place] - SLACK
        state = self._close() if passed else None
        # Where the point was not passed, this call takes the place of the one before.
        inside = self.place < len(self.grid) and call.t >= self.grid[self.place] - SLACK
        self.open = call if inside else None
        return state

    def end(self) -> CallRecord | None:
        return self._close()

    def _close(self) -> CallRecord | None:
        last = self.open
        self.open = None
        if last is None:
            return None
        self.place += 1
        return last if self.place - 1 in self.chosen else None
