"""An audit of what was seen: the scheduler as a pipeline set it, the time as its network got it, the level of the first state."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.audit.findings import findings
from noiseshift.audit.levels import Followed, Levels, rows
from noiseshift.audit.report import Audit
from noiseshift.audit.subject import Subject
from noiseshift.diffusion.families import Pair, family_of
from noiseshift.shift.final_noise import wavelet

HOOKED = ("step", "add_noise", "scale_noise")
"""Methods that an observer puts in front of the class's own."""


@dataclass
class Seen:
    """One run.

    Attributes:
        scheduler: a copy, as it was set when the run began.
        begin: the place of the first call.
        handed: by place, the time that the network got.
        kind: its dtype.
        start: (alpha, sigma) that the scheduler gave to an image just before, or None.
        sigma: of the noise in the first state, by the finest Haar band; None where it is no picture.
    """

    scheduler: Any
    begin: int
    handed: dict[int, float] = field(default_factory=dict)
    kind: str = ""
    start: Pair | None = None
    sigma: float | None = None


class Kept(Followed):
    """A scheduler whose timesteps stay as its pipeline set them."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.steps = len(scheduler.timesteps)
        self.timing = {}
        self.family = family_of(scheduler, step=False)
        self.end = self._checked()

    def _fresh(self) -> Any:
        fresh = copy.deepcopy(self.scheduler)
        if hasattr(fresh, "set_begin_index"):
            fresh.set_begin_index(0)
        return fresh


class Watch:
    """What an observer keeps of a scheduler's runs, for their audit.

    Args:
        scheduler: the one that is observed.
        pipeline: the class of its pipeline; empty for a bare scheduler.
    """

    def __init__(self, scheduler: Any, pipeline: str):
        self.scheduler = scheduler
        self.pipeline = pipeline
        self.runs: list[Seen] = []
        self._noised: tuple[Pair, Tensor] | None = None

    def open(self) -> None:
        """Also see what the scheduler does to images."""
        for name in HOOKED[1:]:
            if hasattr(type(self.scheduler), name):
                setattr(self.scheduler, name, self._noising(getattr(self.scheduler, name)))

    def close(self) -> None:
        """The class's own methods show again."""
        for name in HOOKED[1:]:
            vars(self.scheduler).pop(name, None)

    def begin(self, place: int, sample: Tensor) -> None:
        """A run starts at a place, from a state.

        Args:
            place: of the first timestep that is taken.
            sample: (B, …) the state there.
        """
        frozen = copy.copy(self.scheduler)
        frozen.__dict__ = copy.deepcopy({k: v for k, v in vars(self.scheduler).items() if k not in HOOKED})
        run = Seen(frozen, place)
        if sample.ndim == 4 and min(sample.shape[-2:]) >= 4:
            run.sigma = float(np.sqrt(wavelet(sample.detach().cpu()).mean()))
        if self._noised is not None and _same(self._noised[1], sample):
            run.start = self._noised[0]
        self._noised = None
        self.runs.append(run)

    def call(self, place: int, time: Any) -> None:
        """The network was called at a place, with this time.

        Args:
            place: of the timestep.
            time: what the network was handed; None where that was not seen.
        """
        if not self.runs or time is None:
            return
        value = torch.as_tensor(time).detach().flatten()[:1].cpu()
        if len(value):
            self.runs[-1].handed[place] = float(value)
            self.runs[-1].kind = str(value.dtype).removeprefix("torch.")

    def audit(self) -> Audit:
        """The audit of all runs, those that were set alike taken once. Raises ValueError where no run was seen."""
        if not self.runs:
            raise ValueError("nothing was seen: run the pipeline inside the `with` block first")
        unlike = {str((r.begin, r.scheduler.timesteps.tolist(), r.handed, r.kind, r.start)): r for r in self.runs}
        every = tuple(_levels(run, self.pipeline) for run in unlike.values())
        kind = type(self.scheduler).__name__
        return Audit(f"{self.pipeline}, {kind}" if self.pipeline else kind, every, findings(every))

    def _noising(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def noising(*args: Any, **kwargs: Any) -> Any:
            found = own(*args, **kwargs)
            given = inspect.signature(own).bind(*args, **kwargs).arguments
            image = given.get("original_samples", given.get("sample"))
            if isinstance(given.get("noise"), Tensor) and isinstance(image, Tensor):
                with contextlib.suppress(Exception):  # watching never fails a user's run
                    self._noised = _coefficients(found, image, given["noise"]), found.detach()
            return found

        return noising


def _coefficients(state: Tensor, image: Tensor, noise: Tensor) -> Pair:
    """(alpha, sigma) of a state that is alpha image + sigma noise, by least squares."""
    parts = torch.stack([image.expand_as(state).flatten(), noise.expand_as(state).flatten()], 1).double().cpu()
    alpha, sigma = torch.linalg.lstsq(parts, state.detach().flatten()[:, None].double().cpu()).solution[:, 0].tolist()
    return alpha, sigma


def _same(noised: Tensor, sample: Tensor) -> bool:
    """Whether the first state is what the scheduler made of an image, whatever its shape is now."""
    if noised.numel() % sample.numel() and sample.numel() % noised.numel():
        return False
    first, second = (float(x.double().square().mean()) for x in (noised, sample))
    return abs(first - second) <= 1e-2 * max(first, second)


def _levels(run: Seen, pipeline: str) -> Levels:
    kept = Kept(run.scheduler)
    labels = run.scheduler.timesteps.double().cpu()
    handed = labels.clone()
    units = _units(run, labels)
    for place, value in run.handed.items():
        if units is not None and place < len(handed):
            handed[place] = units(value)
    frame = rows(kept, handed).iloc[run.begin :].reset_index(drop=True)
    steps = int(getattr(run.scheduler, "num_inference_steps", None) or len(labels))
    frame.insert(0, "steps", steps)
    subject = Subject(run.scheduler, type(run.scheduler).__name__, pipeline)
    found = Levels(subject, steps, {}, run.scheduler, kept.family, run.begin, run.start, frame, kept.failure)
    return found.seen(run.kind if run.handed else "", run.sigma)


def _units(run: Seen, labels: Tensor) -> Callable[[float], float] | None:
    """What turns the network's time into a label: networks take labels, their share of the training steps, or one less that.
    None where none of these fits."""
    count = float(run.scheduler.config.num_train_timesteps) if hasattr(run.scheduler, "config") else 1000.0
    ways: tuple[Callable[[float], float], ...] = (lambda v: v, lambda v: count * v, lambda v: count * (1 - v))
    off = [max((abs(way(v) - float(labels[k])) for k, v in run.handed.items()), default=0.0) for way in ways]
    best = min(range(len(ways)), key=off.__getitem__)
    return ways[best] if off[best] <= 0.02 * count else None
