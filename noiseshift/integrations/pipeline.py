"""Watching a diffusers pipeline: its scheduler where it steps, its network where it is called.

`scheduler.step(output, timestep, sample)` is where a state and its level meet; callbacks hand over the next state with the
old timestep. What the network itself said, before guidance mixed it, is caught by a forward hook.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noiseshift.diffusion.models import FULL, Branch, Prediction, Predicts, require
from noiseshift.diffusion.schedulers import Scheduled
from noiseshift.diffusion.schedules import Discrete, Linear, Schedule
from noiseshift.estimators.posterior import Estimator
from noiseshift.integrations.mixtures import blocks, conditional, distinct_rows, order
from noiseshift.integrations.recorder import FinalSamples, Recorder, spread
from noiseshift.shift.report import ShiftReport

log = logging.getLogger(__name__)


class NetworkCall(NamedTuple):
    """One call of the network: its arguments by name and what it returned."""

    network: nn.Module
    arguments: dict[str, Any]
    output: Tensor


class PipelineObserver(Recorder):
    """A tap on a diffusers pipeline, or bare scheduler, while the `with` block lasts. See `observe`.

    A guided network is evaluated on each state several times, in one batch or in calls of its own. Which part had the
    condition follows from the mixture that the scheduler is handed (see `mixtures`); where it does not, the state is
    recorded without a prediction, and `report` says so.

    Attributes:
        unpaired: a line for each state whose level, or whose prediction, is not known for certain.
    """

    def __init__(self, target: Any, schedule: Schedule, estimators: Mapping[str, Estimator] | None, points: int):
        super().__init__(schedule, estimators)
        self.scheduler, self.points = getattr(target, "scheduler", target), points
        self.pipeline = "" if self.scheduler is target else type(target).__name__
        parts = [getattr(target, name, None) for name in ("transformer", "transformer_2", "unet", "prior", "decoder")]
        self.networks = [part for part in parts if isinstance(part, nn.Module)]
        self._place = -1
        self._calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
        self._hooks: list[Any] = []
        self._begun: list[Any] = []
        self._chosen: set[int] = set()
        self._t_cond, self._rows, self._first = torch.zeros(0), 0, True
        self.unpaired: list[str] = []
        self._seen: dict[float, _Place] = {}
        self._ends: list[Tensor] = []
        self._given: list[dict[str, Any]] = []

    def __enter__(self) -> PipelineObserver:
        self._place, self._own = -1, self.scheduler.step
        self.scheduler.step = self._step
        self._hooks = [part.register_forward_hook(self._hear, with_kwargs=True) for part in self.networks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.scheduler.step  # the class's own shows again
        for hook in self._hooks:
            hook.remove()

    def _hear(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.append((network, args, kwargs, output))

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls, self._calls = self._calls, []
        try:
            self._before(output, timestep, sample, calls)
        except Exception as error:  # watching never fails a user's run
            self._lose(f"{type(error).__name__}: {error}")
        result = self._own(output, timestep, sample, *args, **kwargs)
        if self._place == len(self._t_cond) - 1:
            after = result[0] if isinstance(result, tuple) else result.prev_sample
            self._ends.append(after[: self._rows].detach().float())
            self._place = -1
        return result

    def _lose(self, why: str) -> None:
        self.unpaired.append(" ".join(why.split())[:200])

    def _before(self, output: Tensor, timestep: Any, sample: Tensor, calls: Sequence[Any]) -> None:
        outputs = [_tensor(answer) for *_, answer in calls]
        place = self._find(timestep)
        if self._place < 0 or self._anew(place):
            if self._place >= 0 and not self._first:
                self._given.pop()  # a run that stopped early has no final samples
            self._begin(place, distinct_rows(sample, output, outputs))
        self._place = place
        if place in self._chosen:
            with torch.no_grad():
                self._see(place, output, sample, calls, outputs)

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

    def _anew(self, place: int) -> bool:
        """Whether a run begins: the scheduler's count starts again, the level rises, or its timesteps were set again."""
        begun = self._begun[1] if self._begun else None
        uncounted = hasattr(self.scheduler, "step_index") and self.scheduler.step_index is None
        return uncounted or place <= self._place or self.scheduler.timesteps.tolist() != begun

    def _begin(self, place: int, rows: int) -> None:
        """Where a run starts: its levels, its conditioning times, and which of them are read."""
        labels = self.scheduler.timesteps.tolist()
        self._rows, self._first = rows, True
        view = Scheduled.of(self.scheduler)
        levels = view.levels()
        if self._begun != [place, labels, levels]:  # inverting a schedule takes milliseconds
            self._begun = [place, labels, levels]
            self._view = view
            self._t_cond, self._factors = view.conditioning_times(self.schedule), view.factors(self.schedule)
            inside = [
                k
                for k, internal in enumerate(view.internal())
                if k >= place and not internal and 0 < float(self._t_cond[k]) < 1
            ]
            self._chosen = {inside[k] for k in spread(len(inside), self.points)}

    def _see(self, place: int, output: Tensor, sample: Tensor, calls: Sequence[Any], outputs: list[Tensor]) -> None:
        rows, channels = self._rows, sample.shape[1]
        x = sample[:rows].float() * self._factors[place]
        said: Tensor | None = output[:rows, :channels]
        if self.networks:
            parts = blocks(outputs, rows, channels)
            found = conditional(output[:rows, :channels], [part for *_, part in parts], order(self.pipeline, parts))
            said = None if found is None else parts[found][-1]
            if found is None:
                self._lose("what the network predicted of a state is not known from the guided mixture")
            else:
                self._keep(place, _arguments(*calls[parts[found][0]]), parts[found][1], sample[:rows])
        if said is None:
            self.record(x, self._t_cond[place], None)
            return
        level = self.schedule(self._t_cond[place])
        x0, eps = self._view.read(said.float(), x, (float(level.alpha), float(level.sigma)))
        self.record(x, self._t_cond[place], Prediction(x0, eps, level.like(x)))

    def _keep(self, place: int, call: NetworkCall, part: slice, sample: Tensor) -> None:
        """How to evaluate the network alike at this place; the conditions are kept once a run."""
        first = next(iter(call.arguments))
        rows = len(call.output)
        mine = {name: _rows(value, rows, part) for name, value in call.arguments.items() if name != first}
        given = call.arguments[first][part][:, : sample.shape[1]].float()
        scale = (given * sample).sum() / sample.float().square().sum()
        label = mine.pop("timestep", None)
        if self._first:
            self._given.append(mine)
            self._first = False
        label = label.value[:1] if isinstance(label, _PerRow) else label
        self._seen[float(self._t_cond[place])] = _Place(call.network, self._factors[place], first, label, scale)

    def report(self, *args: Any, **kwargs: Any) -> ShiftReport:
        """See `Recorder.report`; logs in one line which states were left out because their level is not known for certain."""
        if self.unpaired:
            log.warning("%d states were not read, the first: %s", len(self.unpaired), self.unpaired[0])
        return super().report(*args, **kwargs)

    def model(self) -> Replay | None:
        """The pipeline's network, unless it took more than the state and its level, which real samples lack."""
        return None if not self._seen or self._per_row() else Replay(self, {})

    def final_samples(self) -> FinalSamples | None:
        if not self._seen or not self._ends:
            return None
        x = torch.cat(self._ends)
        return FinalSamples(x, torch.arange(len(x), device=x.device), Replay(self, self._per_row()))

    def _per_row(self) -> dict[str, Tensor]:
        """The conditions of all samples, by argument."""
        names = [n for n, v in self._given[0].items() if isinstance(v, _PerRow)]
        return {name: torch.cat([given[name].value for given in self._given]) for name in names}


class _Place(NamedTuple):
    network: nn.Module  # a pipeline may hand over to a second one below a level
    factor: float  # our state over the scheduler's own
    first: str  # the network's name for its input
    label: Any  # how it takes the time
    scale: Tensor  # its input over the scheduler's state


class _PerRow(NamedTuple):
    value: Tensor


class Replay:
    """The network of an observed pipeline as a `Model` at the observed times, called as the pipeline called it.

    cond: integers (B,), which observed sample's conditions each row has; None where there are none.
    """

    predicts: Predicts = "epsilon"
    branches = frozenset([FULL])

    def __init__(self, seen: PipelineObserver, rows: Mapping[str, Tensor]):
        self.seen, self.schedule, self.rows = seen, seen.schedule, rows
        self._times = torch.tensor(sorted(seen._seen), dtype=torch.float64)

    def snap(self, t: Tensor) -> Tensor:
        """The nearest observed times."""
        return self._times[(t.double().cpu()[..., None] - self._times).abs().argmin(-1)].to(t)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    @torch.no_grad()
    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        """One t for all rows of x (B, …)."""
        require(self, branches)
        t_cond = self.snap(t.double().flatten()[:1])[0]
        place = self.seen._seen[float(t_cond)]
        level = self.schedule(t_cond)
        state = x / place.factor
        given = {name: value for name, value in self.seen._given[0].items() if not isinstance(value, _PerRow)}
        if cond is not None:
            given |= {name: value[cond.to(value.device)] for name, value in self.rows.items()}
        label = place.label.expand(len(x)) if isinstance(place.label, Tensor) and place.label.ndim else place.label
        network = place.network
        dtype = next(network.parameters()).dtype
        output = _tensor(network(**{place.first: (state * place.scale).to(dtype)}, timestep=label, **given))
        x0, eps = self.seen._view.read(output[:, : x.shape[1]].float(), x, (float(level.alpha), float(level.sigma)))
        return tuple(Prediction(x0, eps, level.like(x)) for _ in branches)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside torch.compile, DistributedDataParallel, PEFT and the like, whose own forward names its arguments."""
    for name in ("_orig_mod", "module", "base_model", "model"):
        kinds = {p.kind for p in inspect.signature(network.forward).parameters.values()}
        if not kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            break
        inner = network._modules.get(name)
        network = network if inner is None else unwrapped(inner)
    return network


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule of a scheduler's states. Raises ValueError when it has none of a kind that is known."""
    if "FlowMatch" in type(scheduler).__name__:
        return Linear()
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{type(scheduler).__name__} has no alphas_cumprod: pass schedule=")
    return Discrete(scheduler.alphas_cumprod)


def _arguments(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> NetworkCall:
    named = inspect.signature(unwrapped(network).forward).bind(*args, **kwargs).arguments
    return NetworkCall(network, {**named, **named.pop("kwargs", {})}, _tensor(output))


def _rows(value: Any, rows: int, part: slice) -> Any:
    return _PerRow(value[part].detach()) if isinstance(value, Tensor) and value.ndim and len(value) == rows else value


def _tensor(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found
