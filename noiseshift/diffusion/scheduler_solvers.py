"""Solvers that run a scheduler of diffusers: one by its class's name, or that of a diffusers folder's own pipeline."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noiseshift.diffusion import schedulers
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.diffusion.schedules import Schedule
from noiseshift.diffusion.solving import Sampled, Solver
from noiseshift.diffusion.words import plain_options, value_in_words


@dataclass(frozen=True, init=False)
class Diffusers(Solver):
    """A scheduler of diffusers, at its own times: `diffusers/SCHEDULER:N,option=value,...`.

    Args:
        scheduler: the class's name, such as "EulerDiscreteScheduler".
        steps: what its `set_timesteps` is given, at least 2.
        options: what its constructor takes, such as use_karras_sigmas=True. Where they name no betas, the table is the
            checkpoint's once it is `bound`; else that of the schedule on which it runs. States are not clipped unless an
            option says so.

    Raises ValueError for a scheduler that diffusers does not have or that cannot be followed, an option that it does not
    take, and a value that it refuses.
    """

    scheduler: str
    options: Mapping[str, Any]

    def __init__(self, scheduler: str, steps: int, **options: Any):
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "scheduler", scheduler)
        object.__setattr__(self, "options", plain_options(scheduler, options))
        self.__post_init__()
        check_options(scheduler, options)
        try:
            self.update()
        except Exception as error:  # diffusers raises many kinds for values that it does not take
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"{self.name!r}: {reason}") from None

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def order(self) -> int | None:
        return None

    @property
    def name(self) -> str:
        settings = [f"{key}={value_in_words(value)}" for key, value in self.options.items()]
        return ",".join([f"diffusers/{self.scheduler}:{self.steps}", *settings])

    def update(self) -> Scheduled:
        return schedulers.Following(self.scheduler, self.steps, self.options)

    def with_steps(self, steps: int) -> Solver:
        return Diffusers(self.scheduler, steps, **self.options)

    def bound(self, checkpoint: Sampled) -> Solver:
        own = None if checkpoint.sampler is None else checkpoint.sampler(self.steps)
        return _OfCheckpoint(
            self.scheduler,
            self.steps,
            self.options,
            checkpoint.model.schedule,
            None if own is None else dict(own.scheduler.config),
            {} if own is None else {key: value for key, value in own.timing.items() if key == "mu"},
        )

    def grid(self, model: Model) -> None:
        return None


class _OfCheckpoint(Diffusers):
    """A `Diffusers` with a checkpoint's own table, or the configuration of its folder's scheduler."""

    def __init__(
        self,
        scheduler: str,
        steps: int,
        options: Mapping[str, Any],
        schedule: Schedule,
        config: Mapping[str, Any] | None,
        timing: Mapping[str, Any],
    ):
        for name, value in (("schedule", schedule), ("config", config), ("timing", timing)):
            object.__setattr__(self, name, value)
        super().__init__(scheduler, steps, **options)

    def update(self) -> Scheduled:
        given: Any = vars(self)
        return schedulers.make(
            self.scheduler,
            self.steps,
            self.options,
            schedule=given["schedule"],
            config=given["config"],
            timing=given["timing"],
        )

    def bound(self, checkpoint: Sampled) -> Solver:
        return Diffusers(self.scheduler, self.steps, **self.options).bound(checkpoint)


@dataclass(frozen=True)
class Own(Solver):
    """The sampler of a diffusers folder's own pipeline, at the pipeline's own times: `own:N`, `own/SCHEDULER:N`.

    `bound` to the folder it knows its scheduler, and says it in its word.

    Attributes:
        steps: how many steps it takes, at least 2.
        scheduler: the class of the folder's scheduler, empty before it is bound; one that is named must be the folder's.
        make: makes the sampler of so many steps; None before it is bound.
    """

    scheduler: str = ""
    make: Callable[[int], Scheduled] | None = field(default=None, compare=False, repr=False)

    @property
    def order(self) -> int | None:
        return None

    @property
    def name(self) -> str:
        return f"own/{self.scheduler}:{self.steps}" if self.scheduler else f"own:{self.steps}"

    def update(self) -> Scheduled:
        if self.make is None:
            raise ValueError(NO_OWN)
        return self.make(self.steps)

    def grid(self, model: Model) -> None:
        return None

    def bound(self, checkpoint: Sampled) -> Own:
        if checkpoint.sampler is None:
            raise ValueError(NO_OWN)
        kind = str(checkpoint.card.provenance["scheduler"])
        if self.scheduler not in ("", kind):
            raise ValueError(f"{self.name!r}: the folder's own scheduler is {kind}: write own:{self.steps}")
        _require_scaled(checkpoint, kind, self.steps)
        return replace(self, scheduler=kind, make=checkpoint.sampler)


UNSCALED = ("DDPMPipeline", "DiTPipeline")
"""Pipelines that start from noise of spread 1 whatever their scheduler's first sigma is."""


def _require_scaled(checkpoint: Sampled, scheduler: str, steps: int) -> None:
    """Raise ValueError where a pipeline's own loop makes no samples with the scheduler that its folder has."""
    pipeline = checkpoint.card.provenance.get("pipeline")
    if checkpoint.sampler is None or pipeline not in UNSCALED:
        return
    if float(getattr(checkpoint.sampler(steps).scheduler, "init_noise_sigma", 1.0)) != 1.0:
        raise ValueError(
            f"{pipeline} itself makes no pictures with {scheduler}, whose first noise it does not scale: write "
            f"diffusers/{scheduler}:{steps}"
        )


NO_OWN = "own:N is the sampler of a diffusers folder's pipeline: name another one, such as ddim:50"


def check_options(scheduler: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for a scheduler that diffusers does not have, or an option that its constructor does not take.

    Args:
        scheduler: the class's name.
        options: by name.
    """
    known = _parameters(_scheduler_class(scheduler))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{scheduler} has no option {', '.join(unknown)}: choose from {', '.join(known)}")


def _parameters(kind: type) -> list[str]:
    """What a scheduler's constructor takes by name."""
    every = inspect.signature(kind).parameters.values()
    return [p.name for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _scheduler_class(name: str) -> Any:
    diffusers = importlib.import_module("diffusers")
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not isinstance(kind, type):
        raise ValueError(f"diffusers has no scheduler {name!r}: write for example diffusers/DDIMScheduler:50")
    return kind
