"""How else could a checkpoint be read? Ranges, time inputs, schedules and predictions tried on a few states.

A state dict does not say in which range its data were, which way its time runs or what it predicts. A wrong card still gives
numbers. Each way of reading is scored by its noise error over the linear denoiser's on the same states: the right one is far
below it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.models import READ, Model, Predicts
from noiseshift.diffusion.noise import PREFLIGHT, generators, normal
from noiseshift.diffusion.schedules import Cosine, Discrete, Level, Linear, Schedule, VarianceExploding, describe
from noiseshift.diffusion.wrapping import CallableModel
from noiseshift.estimators.instrument import Array
from noiseshift.networks.model import NetworkModel
from noiseshift.shift.denoising import checked_times
from noiseshift.targets.fitting import fitted_gaussian

SCALES = (0.2, 0.4, 0.8, 1.6)
ROWS = 4
AS_READ = "as it was read"

Raw = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Feed = Callable[[Schedule, Tensor], Tensor]

RANGES: Mapping[str, tuple[float, float]] = {
    "[-1, 1]": (1.0, 0.0),
    "[0, 1]": (0.5, 0.5),
    "[-1/2, 1/2]": (0.5, 0.0),
}
"""Ranges of data, as the factor and offset that bring [-1, 1] there."""

FEEDS: Mapping[str, Feed] = {
    "t, 0 is data": lambda schedule, t: t,
    "t, 0 is noise": lambda schedule, t: 1 - t,
    "steps 0 … 999, 0 is data": lambda schedule, t: (1000 * t - 1).round().clamp(0, 999),
    "steps 0 … 999, 0 is noise": lambda schedule, t: (1000 * (1 - t)).round().clamp(0, 999),
    "sigma": lambda schedule, t: _sigma(schedule, t),
    "log(sigma) / 4": lambda schedule, t: _sigma(schedule, t).log() / 4,
}


def _sigma(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.log_snr(t).div(-2).exp()


@dataclass(frozen=True)
class ReadAs:
    """One way to read a checkpoint.

    Attributes:
        parts: what is read otherwise than now, as the card's word and its value.
        ratio: geometric mean over the levels of its noise error over the linear denoiser's; below 1 it denoises.
    """

    parts: Mapping[str, str]
    ratio: float

    def sentence(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.parts.items())


def better_reading(model: Model, fitted: Tensor, x0: Tensor, cond: Tensor | None) -> ReadAs | None:
    """The reading that fits best, or None where none is clearly better than the present one, or the model is not one whose
    raw answers can be asked for.

    Args:
        model: as it was read.
        fitted: (M, …) rows for the linear denoiser.
        x0: (N, …) other rows; the first 4 are used.
        cond: (N,) their classes, or None.
    """
    raw = _raw(model)
    if raw is None:
        return None
    trial = _Trial(model, raw, x0[:ROWS], None if cond is None else cond[:ROWS], _spread(fitted))
    linear = _linear_errors(fitted, trial.x0)
    scored = [way for way in trial.readings(linear) if np.isfinite(way.ratio)]
    now = min((way.ratio for way in scored if not way.parts), default=np.inf)
    # Of readings that fit about alike, the one that changes least is named.
    best = min(scored, key=lambda way: (round(np.log(way.ratio) / 0.05), len(way.parts)), default=None)
    return best if best and best.parts and best.ratio < min(0.9, 0.8 * now) else None


@dataclass(frozen=True)
class _Trial:
    """States and classes on which readings of one model are tried; `spread` is that of the data in [-1, 1]."""

    model: Model
    raw: Raw
    x0: Tensor
    cond: Tensor | None
    spread: float

    def readings(self, linear: Array) -> Iterator[ReadAs]:
        """Every combination, with its ratio to the `linear` denoiser's errors (T,)."""
        for (schedule_name, schedule), range_name in itertools.product(_schedules(self.model).items(), RANGES):
            times = checked_times(schedule, RANGES[range_name][0] * self.spread, SCALES)
            if len(times) < len(SCALES):
                continue
            t, x, eps, level = self._states(schedule, times, *RANGES[range_name])
            for feed_name, feed in _feeds(self.model).items():
                answer = self._answer(x, feed(schedule, t))
                parts = _changed(schedule=schedule_name, range=range_name, time=feed_name)
                if answer is None:
                    continue
                for predicts, sign in itertools.product(READ, (1.0, -1.0)):
                    wrong = READ[predicts](sign * answer, x, level).eps - eps
                    errors = wrong.double().square().reshape(len(times), -1).mean(1).cpu().numpy()
                    ratio = float(np.exp(np.log(errors / linear).mean()))
                    yield ReadAs(parts | self._prediction(predicts, sign), ratio)

    def _states(
        self, schedule: Schedule, times: Tensor, factor: float, offset: float
    ) -> tuple[Tensor, Tensor, Tensor, Level]:
        """(t, x, eps, level) of all rows at all times, the times one after another."""
        noise = normal(generators(range(len(self.x0)), seed=0, stream=PREFLIGHT), self.x0.shape[1:]).to(self.x0)
        eps = noise.repeat(len(times), *[1] * (noise.ndim - 1))
        data = (factor * self.x0 + offset).repeat(len(times), *[1] * (noise.ndim - 1))
        t = times.repeat_interleave(len(noise))
        level = schedule(t).like(eps)
        return t, level.mix(data, eps).to(eps), eps, level

    def _answer(self, x: Tensor, time: Tensor) -> Tensor | None:
        labels = None if self.cond is None else self.cond.repeat(len(x) // len(self.cond))
        try:
            with torch.no_grad():
                answer = self.raw(x, time, labels)
        except Exception:  # anybody's network may refuse a time that it does not know
            return None
        return answer if answer.shape == x.shape else None

    def _prediction(self, predicts: Predicts, sign: float) -> dict[str, str]:
        if (predicts, sign) == (self.model.predicts, getattr(self.model, "sign", 1.0)):
            return {}
        directions = {1.0: "from data to noise", -1.0: "from noise to data"}
        minus = "minus " if sign < 0 else ""
        return {"prediction": f"velocity {directions[sign]}" if predicts == "velocity" else f"{minus}{predicts}"}


def _changed(**parts: str) -> dict[str, str]:
    """The parts of a reading that are not the present one's."""
    return {key: value for key, value in parts.items() if value not in (AS_READ, "[-1, 1]")}


def _schedules(model: Model) -> dict[str, Schedule]:
    usual = {
        "linear": Linear(),
        "discrete, DDPM's linear betas": Discrete.from_betas(),
        "discrete, cosine betas": Discrete.cosine(),
        "cosine": Cosine(),
        "variance-exploding": VarianceExploding(),
    }
    return {AS_READ: model.schedule} | {k: s for k, s in usual.items() if describe(s) != describe(model.schedule)}


def _feeds(model: Model) -> dict[str, Feed]:
    own = getattr(model, "time_input", None)
    return {AS_READ: (lambda schedule, t: t) if own is None else (lambda schedule, t: own(t)), **FEEDS}


def _raw(model: Model) -> Raw | None:
    """The network's own answer to a state, the number that it takes for the time, and classes."""
    return model.raw if isinstance(model, NetworkModel | CallableModel) else None


def _linear_errors(fitted: Tensor, x0: Tensor) -> Array:
    """(T,) noise error of the linear denoiser at SCALES; it is the same on every schedule and in every range."""
    schedule = VarianceExploding(1e-4, 1e4)
    times = checked_times(schedule, _spread(fitted), SCALES)
    eps = normal(generators(range(len(x0)), seed=0, stream=PREFLIGHT), x0.shape[1:])
    model = fitted_gaussian(fitted).model(schedule)
    x0 = x0.cpu()
    errors = []
    for t in times:
        level = schedule(t).like(x0)
        errors.append(float((model(level.mix(x0, eps), t).eps - eps).double().square().mean()))
    return np.array(errors)


def _spread(x0: Tensor) -> float:
    return float(x0.flatten(1).double().std(0).square().mean().sqrt())
