"""Taps on somebody else's loop: a diffusers pipeline by its scheduler's `step`, or any loop by `record`.

    with ns.observe(pipeline) as seen:
        pipeline(batch_size=64, num_inference_steps=50)
    print(seen.report(real_images, model=model).table())

`scheduler.step(output, timestep, sample)` is where a state, its level and the network's answer meet; callbacks hand over the
next state with the old timestep. Nothing but (N, K) numbers is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.estimators.calibration import Array, Readings, calibrate, read
from noiseshift.estimators.posterior import Estimator
from noiseshift.estimators.residual import Residual, statistic
from noiseshift.models import Model, Prediction
from noiseshift.samplers import Scheduled, Step, schedule_times
from noiseshift.schedules import Discrete, Linear, Schedule
from noiseshift.shift import ShiftReport

RESIDUAL = "residual"


class Recorder:
    """Keeps what estimators read off the states that `record` is given, and the size of every predicted noise.

    `estimators` read states as they pass. `points` bounds how many times of a run are read, chosen by whoever feeds it.
    """

    def __init__(self, schedule: Schedule, estimators: Mapping[str, Estimator] | None = None):
        self.schedule, self.estimators = schedule, dict(estimators or {})
        self._steps: dict[float, int] = {}
        self._readings: dict[str, dict[float, list[Readings]]] = {name: {} for name in self.estimators}
        self._sizes: dict[float, list[Tensor]] = {}

    def record(
        self, x: Tensor, t: Tensor | float, prediction: Prediction | None = None, *, cond: Tensor | None = None
    ) -> None:
        """A state x (B, …) = alpha x0 + sigma eps of the schedule, told t in [0, 1], and the network's answer, if any."""
        time = torch.as_tensor(t, dtype=torch.float64).cpu()
        key = round(float(time), 9)
        if not 0 < key < 1:
            return  # no level to read
        self._steps.setdefault(key, len(self._steps))
        step = Step(self._steps[key], time, x, prediction)
        for name, estimator in self.estimators.items():
            self._readings[name].setdefault(key, []).append(read(estimator, x, cond, step))
        if prediction is not None:
            self._sizes.setdefault(key, []).append(statistic(prediction))

    @property
    def times(self) -> Tensor:
        """(K,) the told times that were recorded, falling."""
        return torch.tensor(sorted(self._steps, reverse=True), dtype=torch.float64)

    def report(
        self,
        real: Tensor,
        *,
        estimator: str | None = None,
        model: Model | None = None,
        cond: Tensor | None = None,
        seed: int = 0,
    ) -> ShiftReport:
        """The shift of what was recorded, calibrated on `real` samples (N, …) in [-1, 1] of classes `cond`.

        By the only estimator, the one that is named, or `residual`, which needs the `model` whose predictions were
        recorded. Half of `real` fits the residual's curve, the other half calibrates. Raises ValueError when nothing was
        recorded or the estimator is not there.
        """
        if not self._steps:
            raise ValueError("nothing was recorded: run the sampler inside the `with` block first")
        name = estimator or (next(iter(self.estimators)) if len(self.estimators) == 1 else RESIDUAL)
        if name == RESIDUAL and name not in self.estimators:
            return self._residual(real, model, cond, seed)
        if name not in self.estimators:
            raise ValueError(f"{name} did not read this run: choose from {', '.join([*self.estimators, RESIDUAL])}")
        calibration = calibrate(self.estimators[name], real, self.times, cond=cond, seed=seed)
        sampled = Readings.stack([Readings.concatenate(self._readings[name][float(t)]) for t in self.times])
        return ShiftReport(name, self.schedule, self._indices(), self.times.numpy(), sampled, calibration)

    def _residual(self, real: Tensor, model: Model | None, cond: Tensor | None, seed: int) -> ShiftReport:
        if model is None:
            raise ValueError("the residual estimator is calibrated with the network: pass model=")
        half, generator = len(real) // 2, torch.Generator().manual_seed(seed)
        first, second = (None, None) if cond is None else (cond[:half], cond[half:])
        residual = Residual(model, real[:half], self.times, generator=generator, cond=first)
        calibration = calibrate(residual, real[half:], self.times, cond=second, seed=seed)
        columns = []
        for t in self.times:
            posterior = residual.posterior(torch.cat(self._sizes[float(t)]), t)
            log_snr = self.schedule.log_snr(posterior.times)
            mean, mean_log_snr = posterior.mean.numpy()[:, None], posterior.expect(log_snr).numpy()[:, None]
            columns.append(Readings(mean, mean_log_snr, posterior.prob.mean(0).numpy()[None]))
        return ShiftReport(
            RESIDUAL, self.schedule, self._indices(), self.times.numpy(), Readings.stack(columns), calibration
        )

    def _indices(self) -> Array:
        return np.array([self._steps[float(t)] for t in self.times])


class Observation(Recorder):
    """A tap on a diffusers scheduler while the `with` block lasts. See `observe`."""

    def __init__(self, scheduler: Any, schedule: Schedule, estimators: Mapping[str, Estimator] | None, points: int):
        super().__init__(schedule, estimators)
        self.scheduler, self.points = scheduler, points
        self._call = 0
        self._view: Scheduled | None = None

    def __enter__(self) -> Observation:
        self._call, self._own = 0, self.scheduler.step
        self.scheduler.step = self._step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.scheduler.step  # the class's own shows again

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._call % len(self.scheduler.timesteps) == 0:
            self._begin()
        place = self._call % len(self.scheduler.timesteps)
        self._call += 1
        if place in self._chosen:
            with torch.no_grad():
                self._see(place, output, sample)
        return self._own(output, timestep, sample, *args, **kwargs)

    def _begin(self) -> None:
        """Where a run starts: its levels, its told times, and which of them are read."""
        self._call = 0
        view = Scheduled.of(self.scheduler)
        self._view, self._levels = view, view.levels()
        self._told = schedule_times(self.schedule, self._levels)
        told = [k for k, inside in enumerate(view.internal()) if not inside and 0 < float(self._told[k]) < 1]
        keep = np.unique(np.linspace(0, len(told) - 1, min(self.points, len(told))).round().astype(int))
        self._chosen = {told[k] for k in keep}

    def _see(self, place: int, output: Tensor, sample: Tensor) -> None:
        assert self._view is not None
        alpha, sigma = self._levels[place]
        rows = _distinct(sample)
        state, output = sample[:rows].float(), output[:rows, : sample.shape[1]].float()
        x0, eps = self._view.read(output, state, alpha, sigma)
        level = self.schedule(self._told[place]).like(state)
        # Same log-SNR, so one factor turns their state into ours.
        self.record(state * (level.sigma / sigma), self._told[place], Prediction(x0, eps, level))


def observe(
    pipeline: Any,
    estimators: Mapping[str, Estimator] | None = None,
    *,
    schedule: Schedule | None = None,
    points: int = 8,
) -> Observation:
    """Watch every run of a diffusers `pipeline` (or bare scheduler) inside a `with` block.

    `estimators` read the states as they pass; without any, only the sizes of the predicted noises are kept, which costs
    nothing and is what the `residual` report needs. `points` times of a run are read. The `schedule` is the scheduler's own
    unless given: Linear for flow matching, else Discrete from its alphas_cumprod. Rows that classifier-free guidance
    doubles are counted once; a guided prediction is recorded as it is, so measure guided pipelines by estimators that
    read states. Raises ValueError for a scheduler that cannot be followed.
    """
    scheduler = getattr(pipeline, "scheduler", pipeline)
    return Observation(scheduler, schedule or _schedule_of(scheduler), estimators, points)


def _schedule_of(scheduler: Any) -> Schedule:
    if "FlowMatch" in type(scheduler).__name__:
        return Linear()
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{type(scheduler).__name__} has no alphas_cumprod: pass schedule=")
    return Discrete(scheduler.alphas_cumprod)


def _distinct(sample: Tensor) -> int:
    """How many rows are states of their own: pipelines that double the batch for guidance repeat it."""
    half = len(sample) // 2
    return half if half and len(sample) % 2 == 0 and torch.equal(sample[:half], sample[half:]) else len(sample)
