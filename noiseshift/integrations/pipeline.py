"""Watching a diffusers pipeline: its scheduler where it steps, its network where it is called.

`scheduler.step(output, timestep, sample)` is where a state and its level meet; callbacks hand over the next state with the
old timestep. What the network itself predicted, before guidance mixed it, is caught by a forward hook.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.audit import Audit
from noiseshift.audit.observed import Watch
from noiseshift.calling import error_in_words
from noiseshift.diffusion.families import Flow, outside, trained_on
from noiseshift.diffusion.models import Prediction
from noiseshift.diffusion.schedulers import Scheduled
from noiseshift.diffusion.schedules import Discrete, Linear, Schedule
from noiseshift.estimators.instrument import Readers
from noiseshift.integrations.called import NetworkCall, PerRow, how_called
from noiseshift.integrations.called import tensor_of as _tensor
from noiseshift.integrations.mixtures import blocks, conditional, distinct_rows, loop_of, order, unknown
from noiseshift.integrations.pairing import is_of, require_label, require_time
from noiseshift.integrations.recorder import FinalSamples, Recorder, spread
from noiseshift.integrations.replay import Replay, StateCall
from noiseshift.integrations.tap import Tap
from noiseshift.shift.report import ShiftReport

log = logging.getLogger(__name__)

MOST_CALLS = 64
"""Calls of a network that are kept until the scheduler steps: in between, a loop may call it without end."""

DIFFERENT = 0.02
"""Relative distance of two answers of one network to one state that is no rounding, of half precision either."""


class PipelineObserver(Recorder):
    """A tap on a diffusers pipeline, or bare scheduler, while the `with` block lasts. See `observe`.

    A guided network is evaluated on each state several times, in one batch or in calls of its own. Which part had the
    condition follows from the mixture that the scheduler is handed (see `mixtures`); where it does not, the state is
    recorded without a prediction, and `report` says so.

    Args:
        target: a diffusers pipeline or scheduler.
        schedule: of its states.
        estimators: what reads the states as they pass, by name; None for none.
        points: how many times of a run are read.

    Attributes:
        unpaired: a line for each state whose level, or whose prediction, is not known for certain.
    """

    def __init__(self, target: Any, schedule: Schedule, estimators: Readers | None, points: int):
        super().__init__(schedule, estimators)
        self.target = target
        self.scheduler = getattr(target, "scheduler", target)
        self.points = points
        self.pipeline = "" if self.scheduler is target else type(target).__name__
        parts = [getattr(target, name, None) for name in ("transformer", "transformer_2", "unet", "prior", "decoder")]
        self.networks = [part for part in parts if isinstance(part, nn.Module)]
        self.unpaired: list[str] = []
        self._watch = Watch(self.scheduler, self.pipeline)
        self._hooks: list[Any] = []
        self._calls: deque[NetworkCall] = deque(maxlen=MOST_CALLS)  # since the scheduler's last step
        self._run: _Run | None = None
        self._states: dict[float, StateCall] = {}
        self._example: tuple[Tensor, Tensor, Prediction, dict[str, Any]] | None = None
        self._checked: tuple[Any, ...] | None = None  # the example that the network was called on again
        self._given: list[dict[str, Any]] = []  # the conditions of each run that came to its end
        self._ends: list[Tensor] = []

    def __enter__(self) -> PipelineObserver:
        self._run = None
        self._tap = Tap(self.scheduler, self._before, self._after)
        self._tap.open()
        self._watch.open()
        self._hooks = [part.register_forward_hook(self._hear, with_kwargs=True) for part in self.networks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tap.close()
        self._watch.close()
        for hook in self._hooks:
            hook.remove()
        if self._calls and self._run is None and not self.unpaired:
            why = "another step was put in its place, or its pipeline steps a copy of it"
            self._lose(f"the network was called, and no step of the scheduler was seen: {why}")

    def _hear(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if getattr(self.target, "scheduler", self.target) is not self.scheduler:
            self._lose("the pipeline got another scheduler while it was observed: observe it again after that")
            return
        self._calls.append(NetworkCall(network, args, kwargs, output))

    @property
    def _place(self) -> int:
        """Which of its timesteps the run is at; -1 between runs."""
        return -1 if self._run is None or self._run.ended else self._run.place

    def _lose(self, why: str) -> None:
        self.unpaired.append(" ".join(why.split())[:200])

    def _before(self, output: Tensor, timestep: Any, sample: Tensor) -> None:
        """A state, its label and what was made of the network's answers are handed to the scheduler."""
        calls = [*self._calls]
        self._calls.clear()
        try:
            if len(calls) == MOST_CALLS:
                raise ValueError(f"the network was called {MOST_CALLS} times or more since the scheduler's last step")
            self._pair(output, timestep, sample, calls)
        except Exception as error:  # watching never fails a user's run
            self._lose(f"{type(error).__name__}: {error}")

    def _after(self, result: Any) -> None:
        """The scheduler's answer: where it was the last, the final samples."""
        try:
            if self._run is not None and self._run.at_end:
                self._end(self._run, result[0] if isinstance(result, tuple) else result.prev_sample)
        except Exception as error:
            self._lose(f"{type(error).__name__}: {error}")

    def _pair(self, output: Tensor, timestep: Any, sample: Tensor, calls: Sequence[NetworkCall]) -> None:
        run = self._run
        place = self._find(timestep)
        require_label(self.scheduler.timesteps.tolist(), place, timestep)
        if run is not None and run.has_seen(place, sample):
            return  # a step that is tried first, for a preview
        if run is None or run.ended or self._anew(run, place):
            rows = distinct_rows(sample, output, [_tensor(call.output) for call in calls])
            grid = run.grid if run is not None else None
            run = self._run = _Run(self._grid(place, grid), rows)
            self._watch.begin(place, sample[:rows])
        run.place = place
        run.first = sample[:1].detach().clone()
        self._watch.call(place, calls[-1].time() if calls else None)
        if place in run.grid.chosen:
            with torch.no_grad():
                self._see(run, output, sample, calls)

    def _end(self, run: _Run, sample: Tensor) -> None:
        """Keep the final samples of a run, and the conditions that they were made under."""
        self._ends.append(sample[: run.rows].detach().float())
        if run.given is not None:
            self._given.append(run.given)
        run.ended = True

    def _find(self, timestep: Any) -> int:
        """Which of its timesteps the scheduler is at: by its own count where it keeps one, else by the label."""
        for count in (getattr(self.scheduler, "step_index", None), getattr(self.scheduler, "begin_index", None)):
            if count is not None:
                return int(count)
        labels = self.scheduler.timesteps.tolist()
        after = self._place + 1
        if 0 < after < len(labels) and labels[after] == float(timestep):
            return after  # labels may be doubled
        if hasattr(self.scheduler, "index_for_timestep"):
            return int(
                self.scheduler.index_for_timestep(torch.as_tensor(timestep, device=self.scheduler.timesteps.device))
            )
        if float(timestep) not in labels:
            raise ValueError(
                f"the scheduler was called for a step at {float(timestep):g}, which is none of its timesteps"
            )
        return labels.index(float(timestep))

    def _anew(self, run: _Run, place: int) -> bool:
        """Whether a run begins: the scheduler's count starts again, the level rises, or its timesteps were set again."""
        uncounted = hasattr(self.scheduler, "step_index") and self.scheduler.step_index is None
        return uncounted or place <= run.place or self.scheduler.timesteps.tolist() != run.grid.labels

    def _grid(self, start: int, before: _Grid | None) -> _Grid:
        """The levels of a run that starts at a place, its conditioning times, and which of them are read."""
        labels = self.scheduler.timesteps.tolist()
        if start and len(getattr(self.scheduler, "prk_timesteps", ())):
            raise ValueError("PNDM counts its Runge–Kutta steps from its first call: give it skip_prk_steps=True")
        view = Scheduled.of(self.scheduler)
        if isinstance(view.family, Flow) and len(outside(view.family, self.scheduler, torch.tensor(labels))):
            raise ValueError("the scheduler's sigmas exceed 1, which are no levels of a flow")
        levels = view.levels()
        if before is not None and (before.start, before.labels, before.levels) == (start, labels, levels):
            return before  # inverting a schedule takes milliseconds
        times = view.conditioning_times(self.schedule)
        inside = [
            k for k, internal in enumerate(view.internal()) if k >= start and not internal and 0 < float(times[k]) < 1
        ]
        chosen = frozenset(inside[k] for k in spread(len(inside), self.points))
        return _Grid(start, labels, levels, view, times, view.factors(self.schedule), chosen)

    def _see(self, run: _Run, output: Tensor, sample: Tensor, calls: Sequence[NetworkCall]) -> None:
        grid = run.grid
        rows = run.rows
        channels = sample.shape[1]
        t = grid.times[run.place]
        x = sample[:rows].float() * grid.factors[run.place]
        predicted: Tensor | None = output[:rows, :channels]
        self._require_calls(run, sample[:rows], calls)
        if self.networks:
            parts = blocks([_tensor(call.output) for call in calls], rows, channels)
            found = conditional(
                output[:rows, :channels], [part for *_, part in parts], order(loop_of(self.target), parts)
            )
            if found is None:
                predicted = None
                why = unknown(output[:rows, :channels], [part for *_, part in parts])
                self._lose(f"what the network predicted of a state is not known: {why}")
            elif is_of(calls[parts[found.part][0]], parts[found.part][1], sample[:rows]) is False:
                predicted = None
                self._lose("what the network predicted of a state is not known: it was called on another one")
            else:
                call, part, said = parts[found.part]
                predicted = found.factor * said.reshape(x.shape)
                self._keep(run, calls[call], part, sample[:rows], found.factor)
        if predicted is None:
            self.record(x, t, None)
            return
        level = self.schedule(t)
        x0, eps = grid.view.read(predicted.float(), x, (float(level.alpha), float(level.sigma)))
        prediction = Prediction(x0, eps, level.like(x))
        if run.given is not None:
            self._example = (x, t, prediction, run.given)
        self.record(x, t, prediction)

    def _require_calls(self, run: _Run, sample: Tensor, calls: Sequence[NetworkCall]) -> None:
        """Raise ValueError where the network was not called on this state, or at another time than its label."""
        own = [call for call in calls if is_of(call, slice(0, run.rows), sample) is not False]
        if calls and not own:
            raise ValueError("the network was called on another state than the one that the scheduler steps from")
        count = trained_on(run.grid.view.family, self.scheduler)
        for call in own:
            require_time(call, run.grid.labels[run.place], count)

    def _keep(self, run: _Run, call: NetworkCall, part: slice, sample: Tensor, factor: float) -> None:
        """How to call the network the same way at this place, as far as that can be known; the conditions are kept once a run."""
        try:
            how = how_called(call, part, sample)
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            self.without_model = self.without_model or " ".join(str(error).split())
            return
        if run.given is None:
            run.given = how.given
        elif not _alike(run.given, how.given):
            self.without_model = "what the network is given beside state and time changes within a run"
        t = float(run.grid.times[run.place])
        self._states[t] = StateCall(call.network, run.grid.view, run.grid.factors[run.place], how, factor)

    def audit(self) -> Audit:
        """The levels of what ran: labels, the time as the network got it (its value and dtype), states, where steps land; and the
        level of the first state. Raises ValueError where nothing was seen."""
        return self._watch.audit()

    def report(self, *args: Any, **kwargs: Any) -> ShiftReport:
        """See `Recorder.report`; logs in one line which states were left out because their level is not known for certain.
        Raises ValueError with the first reason where none is left.

        Args:
            *args: those of `Recorder.report`.
            **kwargs: likewise.
        """
        if self.unpaired:
            log.warning("%d states were not read, the first: %s", len(self.unpaired), self.unpaired[0])
            if not len(self.times):
                raise ValueError(f"nothing was recorded: {self.unpaired[0]}")
        return super().report(*args, **kwargs)

    def model(self) -> Replay | None:
        """The pipeline's network, unless it took more than the state and its level, which real samples lack."""
        found = self._replay()
        return None if found is None or found.rows else found

    def final_samples(self) -> FinalSamples | None:
        if not self._ends or not (self._states or self.without_model):
            return None
        shapes = sorted({tuple(end.shape[1:]) for end in self._ends})
        if len(shapes) > 1:
            raise ValueError(
                f"the observed runs have states of {shapes[0]} and of {shapes[1]}: observe runs of one size"
            )
        x = torch.cat(self._ends)
        return FinalSamples(x, torch.arange(len(x), device=x.device), self._replay())

    def _replay(self) -> Replay | None:
        """The network, to be called as the pipeline called it; None where that is not known, `without_model` says why."""
        if not self._states or self.without_model:
            return None
        try:
            rows = self._per_row()
            shared = {name: v for name, v in self.conditions()[0].items() if not isinstance(v, PerRow)}
            replay = Replay(self.schedule, self._states, shared, rows)
        except ValueError as error:
            self.without_model = str(error)
            return None
        self.without_model = self._unlike(shared)
        return None if self.without_model else replay

    def _unlike(self, shared: Mapping[str, Any]) -> str:
        """Why the network does not answer as it did in the run; empty where it does. It may have emptied a list that it was
        given, or be changed by its pipeline only while that runs."""
        if self._example is None or self._checked is self._example:
            return ""
        x, t, prediction, given = self._example
        rows = {name: value.value for name, value in given.items() if isinstance(value, PerRow)}
        try:
            second = Replay(self.schedule, self._states, shared, rows)(x, t, torch.arange(len(x), device=x.device))
        except Exception as error:  # a network that its pipeline prepared fails in any way
            return f"called again on a state of the run it fails: {error_in_words(error)}"
        off = (second.eps - prediction.eps).norm()
        if not bool(off <= DIFFERENT * prediction.eps.norm()):  # nor where either is no number
            return "called again on a state of the run it answers otherwise"
        self._checked = self._example
        return ""

    def conditions(self) -> list[dict[str, Any]]:
        """What the network was given beside state and time: of each run that came to its end, else of the latest."""
        latest = [] if self._run is None or self._run.given is None else [self._run.given]
        return self._given or latest

    def _per_row(self) -> dict[str, Tensor]:
        """The conditions of all samples, by argument. Raises ValueError for runs whose conditions do not fit together."""
        every = self.conditions()
        names = [n for n, v in every[0].items() if isinstance(v, PerRow)]
        values = {name: [given[name].value for given in every if isinstance(given.get(name), PerRow)] for name in names}
        if any(len(found) < len(every) or len({v.shape[1:] for v in found}) > 1 for found in values.values()):
            raise ValueError("the observed runs were given conditions of unlike shapes")
        return {name: torch.cat(found) for name, found in values.items()}


@dataclass(frozen=True)
class _Grid:
    """The scheduler's timesteps as a run found them.

    Attributes:
        start: the place of the run's first step.
        labels: the timesteps.
        levels: (alpha, sigma) of the states.
        view: the scheduler in our terms.
        times: (K,) conditioning times.
        factors: our states over the scheduler's own.
        chosen: the places that are read.
    """

    start: int
    labels: list[float]
    levels: Any
    view: Scheduled
    times: Tensor
    factors: Any
    chosen: frozenset[int]


@dataclass
class _Run:
    """One run of the pipeline while it goes on.

    Attributes:
        grid: its steps.
        rows: how many samples it has.
        place: the step it is at.
        first: the first row of its state there.
        ended: whether its last step was taken.
        given: what the network was given beside state and time; None until it is known.
    """

    grid: _Grid
    rows: int
    place: int = -1
    first: Tensor | None = None
    ended: bool = False
    given: dict[str, Any] | None = None

    def has_seen(self, place: int, sample: Tensor) -> bool:
        """Whether this very state was stepped from at this place before.

        Args:
            place: the step.
            sample: (B, …) the state.
        """
        return place == self.place and self.first is not None and torch.equal(self.first, sample[:1])

    @property
    def at_end(self) -> bool:
        return not self.ended and self.place == len(self.grid.labels) - 1


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule of a scheduler's states. Raises ValueError when it has none of a kind that is known."""
    if "FlowMatch" in type(scheduler).__name__ or getattr(scheduler, "config", {}).get("use_flow_sigmas"):
        return Linear()
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{type(scheduler).__name__} has no alphas_cumprod: pass schedule=")
    return Discrete(scheduler.alphas_cumprod)


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the network was given the same beside state and time."""
    return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, PerRow) and isinstance(second, PerRow):
        return torch.equal(first.value, second.value)
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)
