"""Is the network conditioned on the level that its states have? Levels a little below and above are tried, on the same states.

A network that learned from these data by least squares has the least error at the level of its states. So where it is certain that
a slightly other level leaves less error, the time of its card is off, by a percent of the table or more: too little for the
error itself to show.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noiseshift.calling import error_in_words
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import PREFLIGHT, generators, normal
from noiseshift.diffusion.wrapping import CallableModel
from noiseshift.estimators.instrument import Array
from noiseshift.networks.model import NetworkModel
from noiseshift.shift.controls import Check
from noiseshift.shift.denoising import SCALES

NAME = "conditioning"

ASIDE = 0.1
"""How far they are in log-SNR, 5 % of sigma / alpha. The nearer of two levels has less error, so a network is caught whose best
level is further than half of it."""

CERTAIN = 3.5
"""Standard errors by which the other level must leave less error."""

FEWEST = 8
NAMED = 16
"""Rows on which it is looked what fits best: hundreds of times each."""

OFFSETS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
FACTORS = (1.0, 1.02, 1.04, 1.08, 1.16)
"""What t is moved and multiplied by, to name what fits better."""

HABIT, HABITUAL = 0.006, 0.04
"""What networks prefer by themselves: of 20 strangers' that denoise, one with a right card is best at t + 0.003. Twice that
is said, and fails nothing."""

CLOSER = 5
"""How often it is looked closer around the least."""


def passes() -> int:
    """How often `retiming` calls a network on each row, where it finds nothing."""
    return 2 * len(SCALES)


def retiming(
    model: Model, x0: Tensor, times: Tensor, errors: Array, cond: Tensor | None = None, *, denoises: bool = True
) -> Check:
    """Compare the noise error of a network conditioned on the level of its states with that under levels beside it.

    Args:
        model: as it was read; called `passes()` times on each row, and more where something is found.
        x0: (N, …) real data.
        times: (T,) levels.
        errors: (N, T) the noise error there, of the noise that `noise_errors` gives each row.
        cond: (N,) classes, or None.
        denoises: whether the network denoises these data at all. Where not, nothing is judged; the calls are made all the same, so
            that what a run costs does not depend on what is found.

    Returns:
        Failed where a level beside its own leaves less error for certain, with what fits best; None where that is no further than
        networks go by themselves, or cannot be tried.
    """
    if not isinstance(model, NetworkModel | CallableModel):
        return Check(NAME, None, f"not tried: {type(model).__name__} hands the time over by itself")
    if len(x0) < FEWEST:
        return Check(NAME, None, f"not tried: fewer than {FEWEST} rows")
    tried = _Tried(model, x0, cond)
    try:
        gains = [gain for t, own in zip(times, errors.T, strict=True) if (gain := tried.gains(t, own)) is not None]
    except Exception as error:  # anybody's network may refuse a time that it does not know
        return Check(NAME, None, f"not tried: at another time the network fails: {error_in_words(error)}")
    if not denoises:
        return Check(NAME, None, "not judged: the network does not denoise these data")
    if not gains:
        return Check(NAME, None, "not tried: the network knows no levels beside these")
    mean = np.mean(gains, 0)
    certain = mean.mean(0) / (mean.std(0, ddof=1) / math.sqrt(len(mean))).clip(1e-12)
    if not np.isfinite(certain).all():
        return Check(NAME, None, "not judged: the network's errors are not finite")
    side = int(certain.argmax())
    least = -100 * float(mean.mean(0)[side])
    if certain[side] <= CERTAIN:
        return Check(
            NAME,
            True,
            f"conditioned on a level beside that of its states, the network errs by at least {least:.1f} % more",
        )
    lower = "less" if side == 0 else "more"
    few = slice(NAMED)
    best = _Tried(model, x0[few], None if cond is None else cond[few]).better(times, side)
    said = f"conditioned on {lower} noise than its states have, the network denoises these data better: {best.words}"
    if not best.beyond_habit:
        return Check(NAME, None, f"{said}; networks with a right card are seen to prefer as much by themselves")
    remedy = (
        "correct time in its card (data of less or more contrast than in training look so too, and a network that was trained "
        "little may prefer another time by itself)"
    )
    return Check(NAME, False, f"{said}; {remedy}")


class _Tried:
    """The noise error of each row where the network is conditioned on another time than its state's."""

    def __init__(self, model: NetworkModel | CallableModel, x0: Tensor, cond: Tensor | None):
        self.model = model
        self.x0 = x0
        self.cond = cond
        self.eps = normal(generators(range(len(x0)), seed=0, stream=PREFLIGHT), x0.shape[1:]).to(x0)
        self._errors: dict[tuple[float, float], Array] = {}

    def gains(self, t: Tensor, own: Array) -> Array | None:
        """(N, 2) what is gained of the error `own` (N,) by conditioning on less noise, and more; None without such levels."""
        below, above = self.beside(t)
        if below is None or above is None:
            return None
        return np.stack([own - self.errors(t, below), own - self.errors(t, above)], 1) / own.mean()

    def beside(self, t: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The times of less and of more noise that the network knows, None beyond its last ones."""
        schedule = self.model.schedule
        ends = [float(schedule.log_snr(torch.tensor(end, dtype=torch.float64))) for end in (1.0, 0.0)]
        found: list[Tensor | None] = []
        for step in (ASIDE, -ASIDE):
            wanted = schedule.log_snr(t.double()) + step
            if not ends[0] < float(wanted) < ends[1]:
                found.append(None)
                continue
            given = self.model.snap(schedule.time_of_log_snr(wanted))
            found.append(given if abs(float(given - t)) > 1e-9 else self._next(t, -1 if step > 0 else 1))
        return found[0], found[1]

    def _next(self, t: Tensor, way: int) -> Tensor | None:
        """The next level of a table that has none between."""
        levels = self.model.levels
        if levels is None:
            return None
        place = int((levels.double() - t).abs().argmin()) + way
        return levels[place].double() if 0 <= place < len(levels) else None

    def errors(self, t: Tensor, given: Tensor) -> Array:
        """(N,) mean squared error of the noise in states of level t, where the network is conditioned on another one."""
        pair = float(t), float(given)
        if pair not in self._errors:  # tables are coarse: a search comes back to the same entries
            self._errors[pair] = self._measured(t, given)
        return self._errors[pair]

    def _measured(self, t: Tensor, given: Tensor) -> Array:
        level = self.model.schedule(t).like(self.x0)
        other = copy.copy(self.model)
        other.time_input = lambda _: self.model.time_input(given)  # type: ignore[method-assign]
        with torch.no_grad():
            said = other(level.mix(self.x0, self.eps), t, self.cond)
        return (said.eps - self.eps).double().square().flatten(1).mean(1).cpu().numpy()

    def better(self, times: Tensor, side: int) -> _Better:
        """What time fits best: one that is moved, or one that is multiplied."""
        way = 1 if side else -1
        moved = self._best(times, _MOVED, [way * offset for offset in OFFSETS])
        scaled = self._best(times, _SCALED, [factor**way for factor in FACTORS])
        both = times[_inside(_MOVED.apply(times, moved.value)) & _inside(_SCALED.apply(times, scaled.value))]
        errors = [
            float(self._curve(both, change, [found.value])[1].mean())
            for change, found in ((_MOVED, moved), (_SCALED, scaled))
        ]
        if errors[0] <= errors[1]:
            words = f"t {moved.value:+.4f} [{moved.low:+.4f}, {moved.high:+.4f}]{self._units(moved.value)}"
            return _Better(words, min(abs(moved.low), abs(moved.high)) > HABIT)
        words = f"{scaled.value:.3f} t [{scaled.low:.3f}, {scaled.high:.3f}]"
        return _Better(words, min(abs(math.log(max(end, 1e-3))) for end in (scaled.low, scaled.high)) > HABITUAL)

    def _best(self, times: Tensor, change: _Change, tried: Sequence[float]) -> _Best:
        """Of some changes of the times (T,), the one that leaves the least error, and how certain that is by the rows.

        The least of those tried is approached by parabolas, each closer around the last one's least: errors are no parabola."""
        values, rows = self._curve(times, change, tried)
        middle = _vertex(values, rows.mean(1))
        width = abs(float(values[-1] - values[0])) / 4
        for _ in range(CLOSER):
            near = [middle - width, middle, middle + width]
            # At a time that cannot be moved so far, the least is not seen.
            reached = times[torch.stack([_inside(change.apply(times, value)) for value in near]).all(0)]
            if not len(reached):
                break
            values, rows = self._curve(reached, change, near)
            before, middle = middle, _vertex(values, rows.mean(1))
            if abs(middle - before) < 0.9 * width:  # else it lies further on
                width = max(width / 4, change.step * self._entry())
        best = _vertex(values, rows.mean(1))
        others = [_vertex(values, np.delete(rows, i, 1).mean(1)) for i in range(rows.shape[1])]
        spread = 2 * _jackknifed(others)
        return _Best(best, best - spread, best + spread)

    def _curve(self, times: Tensor, change: _Change, wanted: Sequence[float]) -> tuple[Array, Array]:
        """(K,) the changes that the network's levels leave of those wanted, and (K, N) the error under each over that of now."""
        given = [self.model.snap(change.apply(times, value).clamp(1e-4, 1 - 1e-4)) for value in wanted]
        values = np.array([float(change.of(each, times).mean()) for each in given])
        kept = [0, *(k for k in range(1, len(values)) if abs(values[k] - values[k - 1]) > 1e-9)]  # tables are coarse
        every = [[self.errors(t, at) for t, at in zip(times, given[k], strict=True)] for k in kept]
        return values[kept], (np.array(every) / self.now(times)[:, None]).mean(1)

    def now(self, times: Tensor) -> Array:
        """(T,) the error under the card's own times."""
        return np.array([float(self.errors(t, t).mean()) for t in times])

    def _entry(self) -> float:
        """The distance of two levels of the network's table; 0 of one that has none."""
        levels = self.model.levels
        return 0.0 if levels is None else float(levels.double().diff().median())

    def _units(self, moved: float) -> str:
        """What a moved time is in the network's own numbers; nothing where that differs by level."""
        t = torch.tensor([0.25, 0.5], dtype=torch.float64)
        change = self.model.time_input(t + moved) - self.model.time_input(t)
        if not bool((change[0] - change[1]).abs() < 1e-6 * change.abs().max()):
            return ""
        return f", {float(change[0]):+.3g} in its own numbers"


@dataclass(frozen=True)
class _Change:
    """A way to change times.

    Attributes:
        apply: to times and a value.
        of: the value, from changed times and those before.
        step: of the value, over that of a time.
    """

    apply: Callable[[Tensor, float], Tensor]
    of: Callable[[Tensor, Tensor], Tensor]
    step: float


_MOVED = _Change(lambda t, value: t + value, lambda given, t: given - t, 1.0)
_SCALED = _Change(lambda t, value: t * value, lambda given, t: given / t, 10.0)


@dataclass(frozen=True)
class _Better:
    """What fits best, in words, and whether it is further than networks go by themselves."""

    words: str
    beyond_habit: bool


def _jackknifed(without: Sequence[float]) -> float:
    """The standard error of an estimate, from what it is without each of the rows in turn."""
    return math.sqrt((len(without) - 1) * float(np.var(without)))


@dataclass(frozen=True)
class _Best:
    """What fits best.

    Attributes:
        value: what is added to t, or what multiplies it.
        low: from two standard errors below.
        high: to as many above.
    """

    value: float
    low: float
    high: float


def _inside(times: Tensor) -> Tensor:
    """(T,) whether these are times of noisy data."""
    return (times > 1e-4) & (times < 1 - 1e-4)


def _vertex(values: Array, errors: Array) -> float:
    """Where the parabola through the least of `errors` and its neighbours is least, between these."""
    if len(values) < 3:
        return float(values[errors.argmin()])
    middle = min(max(int(errors.argmin()), 1), len(values) - 2)
    near = slice(middle - 1, middle + 2)
    curve, slope, _ = np.polyfit(values[near] - values[middle], errors[near], 2)
    low, high = sorted((values[near][0], values[near][-1]))
    return (
        float(np.clip(values[middle] - slope / (2 * curve), low, high)) if curve > 0 else float(values[errors.argmin()])
    )
