"""The bridge to diffusers: its schedulers as samplers, run by their own code, their states translated to a model's schedule."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.diffusion.families import (
    Exploding,
    Flow,
    Pair,
    family_of,
    last_label,
    outside,
    require_signature,
)
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.rehearsal import rehearse
from noiseshift.diffusion.scheduler_steps import advance, internal_of, log_snr, name_of, refused
from noiseshift.diffusion.scheduler_tables import configured
from noiseshift.diffusion.schedules import Schedule, describe
from noiseshift.diffusion.steps import Noise, Step, finite, predict_at

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

CLEAN = 1e-5
"""Less noise than this over the signal is rounding, and read as none."""


def from_diffusers(
    scheduler: SchedulerMixin | Any, steps: int, *, timing: Mapping[str, Any] | None = None
) -> Scheduled:
    """Any diffusers scheduler as a sampler, run by its own code; see `Scheduled`.

    Args:
        scheduler: it is copied, never changed.
        steps: how many steps it is set to, at least 1.
        timing: what a pipeline also hands to its `set_timesteps`, as Flux does `sigmas` and `mu`.

    Returns:
        An update that brings its own times: sample(model, x, None, update=…).

    Raises:
        ValueError: in one line, for a scheduler that cannot be followed.
    """
    return Scheduled(scheduler, steps, timing)


def make(
    name: str,
    steps: int,
    options: Mapping[str, Any] | None = None,
    *,
    schedule: Schedule | None = None,
    config: Mapping[str, Any] | None = None,
    timing: Mapping[str, Any] | None = None,
) -> Scheduled:
    """A diffusers scheduler by its class's name, with the table of the checkpoint that it samples.

    Args:
        name: the class, such as "EulerDiscreteScheduler".
        steps: what its `set_timesteps` is given.
        options: what its constructor takes, such as {"use_karras_sigmas": True}; they come before everything else. Latents
            are not clipped (clip_sample, thresholding) unless an option says so.
        schedule: the checkpoint's. A Discrete one gives its table, a VarianceExploding one its ends; else DDPM's linear
            betas are taken.
        config: the scheduler configuration of a diffusers folder, which comes before `schedule`.
        timing: what a pipeline also hands to `set_timesteps`, as far as this one takes it.

    Raises:
        ValueError: in one line, for a name or an option that diffusers does not have, or a scheduler that cannot be followed.
    """
    scheduler = configured(name, options, schedule=schedule, config=config)
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    return Scheduled(scheduler, steps, {key: value for key, value in (timing or {}).items() if key in accepted})


class Scheduled:
    """A diffusers scheduler driven step by step, its states translated to the model's schedule and back.

    States of DDPM, DDIM, DPM++ and the like are variance preserving, (sqrt(abar), sqrt(1 - abar)); of Euler, Heun, EDM,
    LMS, KDPM2 variance exploding, (1, sigma); of flow-matching schedulers (1 - sigma, sigma). The network is conditioned
    on the level of the scheduler's *timestep label*; where the scheduler's arithmetic lands elsewhere (DDIM with a stride that
    does not divide its 1000 steps, labels rounded to integers), that is a shift, and it is left in for the measurement to
    find; `reached_levels` computes it in advance.

    Every scheduler is rehearsed once on two numbers and their noise before anything runs. One that fails there, draws
    noise that cannot be seeded, or lands far from the level it names is refused.

    Args:
        scheduler: a diffusers scheduler; it is copied, never changed.
        steps: what its `set_timesteps` is given.
        timing: what a pipeline also hands to `set_timesteps`.

    Attributes:
        end: (alpha, sigma) where the run ends, in the scheduler's own scaling; sigma is 0 at clean data.
        landed: (alpha, sigma) where each step lands by the rehearsal, one per timestep.

    Raises:
        ValueError: for fewer than one step, and in one line for a scheduler that cannot be followed.
    """

    def __init__(self, scheduler: Any, steps: int, timing: Mapping[str, Any] | None = None):
        if steps < 1:
            raise ValueError(f"a sampler takes at least 1 step, got {steps}")
        self.steps = steps
        self.timing = dict(timing or {})
        require_signature(scheduler)
        self.scheduler = scheduler
        self.scheduler = self._fresh()
        self.family = family_of(self.scheduler)
        self.end = self._checked()

    @classmethod
    def of(cls, scheduler: SchedulerMixin | Any) -> Scheduled:
        """A view of a scheduler whose timesteps are set already, as a pipeline's; for `levels`, `conditioning_times` and `read`."""
        view = cls.__new__(cls)
        view.scheduler = scheduler
        view.steps = len(scheduler.timesteps)
        view.timing = {}
        view.family = family_of(scheduler, step=False)
        return view

    def internal(self) -> list[bool]:
        """Which of the timesteps are evaluations inside a step, and not states of the run."""
        return internal_of(self.scheduler)

    def levels(self) -> list[Pair]:
        """(alpha, sigma) that the scheduler's arithmetic takes its states to have, in its own scaling, one per timestep."""
        return self.family.states(self.scheduler)

    def labels(self) -> Tensor:
        """(n,) float64 log-SNR of the timestep labels: the conditioning levels."""
        return self.family.labelled(self.scheduler)

    def conditioning_times(self, schedule: Schedule) -> Tensor:
        """(n,) float64 conditioning times, those of the labels on a model's schedule; those beyond its ends go to the ends."""
        return _times_of(schedule, self.labels())

    def times(self, schedule: Schedule) -> Tensor:
        """`conditioning_times` without internal evaluations; the last state's time, where the run ends, is not among them."""
        return self.conditioning_times(schedule)[~torch.tensor(self.internal())]

    def factors(self, schedule: Schedule) -> list[float]:
        """What turns the scheduler's own states into those of a model's schedule, one per timestep."""
        levels = self.levels()
        return [size / math.hypot(*own) for size, own in zip(_sizes(schedule, levels), levels, strict=True)]

    def read(self, output: Tensor, x: Tensor, level: Pair) -> tuple[Tensor, Tensor]:
        """(x0, eps) of a network's output, conditioned on `level`, for x = alpha x0 + sigma eps: the inverse of what `run` does.

        Args:
            output: (B, …) what the network answered.
            x: (B, …) the state.
            level: (alpha, sigma) of its conditioning level.
        """
        return self.family.read(output, x, level)

    def run(self, model: Model, x: Tensor, cond: Tensor | None, noise: Noise) -> Iterator[Step]:
        """The steps; x (B, …) is sigma(1) eps of the model's schedule. Repeated levels within a step are internal.

        Args:
            model: what is sampled.
            x: (B, …) noise.
            cond: (B,) classes, or None.
            noise: what the scheduler draws from.

        Raises:
            ValueError: a state or an answer is not finite, or noise is drawn and `noise` has none.
        """
        scheduler = self._fresh()
        schedule = model.schedule
        levels = self.levels()
        times = self.conditioning_times(schedule)
        order = self.internal()
        sizes = _sizes(schedule, levels)
        alphas, sigmas = (part.tolist() for part in schedule.coefficients(times))
        state = (
            x
            / float(schedule.coefficients(torch.tensor(1.0, dtype=torch.float64))[1])
            * float(getattr(scheduler, "init_noise_sigma", 1.0))
        )
        for index, own in enumerate(levels):
            seen = self._seen(scheduler, state, index, own) * sizes[index]
            with torch.no_grad():
                prediction = predict_at(model, seen, times[index], cond)
            yield Step(index, times[index], seen, prediction, internal=order[index])
            level = alphas[index], sigmas[index]
            with torch.no_grad():
                output = self.family.answer(prediction.x0, prediction.eps, level, own)
                state = advance(scheduler, output, index, state, noise)
        yield self._last(schedule, state)

    def _seen(self, scheduler: Any, state: Tensor, index: int, own: Pair) -> Tensor:
        """The state scaled to alpha² + sigma² = 1, by the scheduler's own arithmetic where it has one: Heun magnifies
        rounding."""
        if isinstance(self.family, Exploding):
            scaled: Tensor = scheduler.scale_model_input(state, scheduler.timesteps[index])
            return scaled
        return state / math.hypot(*own)

    def _last(self, schedule: Schedule, state: Tensor) -> Step:
        alpha, sigma = self.end
        end = torch.tensor(0.0, dtype=torch.float64) if sigma == 0 else schedule_times(schedule, [self.end])[0]
        size = 1.0 if sigma == 0 else _sizes(schedule, [self.end])[0]
        state = finite(state, end, "the scheduler's state")
        return Step(self.steps_taken, end, state * (size / math.hypot(alpha, sigma)))

    @property
    def steps_taken(self) -> int:
        """How many times the network is evaluated, internal evaluations among them."""
        return len(self.scheduler.timesteps)

    def _fresh(self) -> Any:
        # Schedulers keep a history: two runs of one update, side by side, must not share it.
        try:
            scheduler = copy.copy(self.scheduler)
            scheduler.__dict__ = copy.deepcopy({k: v for k, v in vars(self.scheduler).items() if k != "step"})
            scheduler.set_timesteps(self.steps, **self.timing)
        except Exception as error:
            raise refused(self.scheduler, self.steps, error) from None
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # labels that were rounded to one number would start it at the second
        return scheduler

    def _checked(self) -> Pair:
        """Where the run ends; raises ValueError where the rehearsal shows that it cannot be followed."""
        self._require_labels()
        levels = self.levels()
        self.landed = reached = rehearse(self, 2**11)
        if not hasattr(self.scheduler, "sigmas"):  # its own arithmetic is what `reached_levels` tells of
            return self._ends_at(reached[-1])
        order = self.internal()
        for k, pair in enumerate(reached[:-1]):
            if not order[k + 1] and abs(log_snr(pair) - log_snr(levels[k + 1])) > 0.2:
                raise ValueError(
                    f"{name_of(self.scheduler)} is no scheduler that can be followed: step {k} lands at a log-SNR of "
                    f"{log_snr(pair):.2f}, where it says {log_snr(levels[k + 1]):.2f}"
                )
        return self._declared(reached[-1])

    def _require_labels(self) -> None:
        """Raise ValueError for labels that training never used, and for a flow's 0: no model here can be conditioned on them."""
        labels = self.scheduler.timesteps.double().cpu()
        cannot = f"{name_of(self.scheduler)} is no scheduler that can be followed in {self.steps} steps as it is set"
        found = outside(self.family, self.scheduler, labels)
        if len(found):
            raise ValueError(
                f"{cannot}: the label {float(found[0]):g} lies outside the training table (0 … "
                f"{last_label(self.family, self.scheduler)}): set steps_offset=0, or take fewer steps"
            )
        if isinstance(self.family, Flow) and bool((labels == 0).any()):
            raise ValueError(
                f"{cannot}: a label is rounded to 0, which is data, of a state with noise: take fewer steps"
            )

    def _declared(self, reached: Pair) -> Pair:
        """The end as the scheduler's last sigma has it, where its arithmetic agrees: exact, where the rehearsal rounds."""
        if reached[1] > CLEAN * reached[0] and len(self.scheduler.sigmas) > len(self.scheduler.timesteps):
            last = float(self.scheduler.sigmas[len(self.scheduler.timesteps)])
            declared = self.family.scaled((1 - last, last) if isinstance(self.family, Flow) else (1.0, last))
            if last > 0 and abs(log_snr(declared) - log_snr(reached)) < 0.1:
                return declared
        return self._ends_at(reached)

    def _ends_at(self, reached: Pair) -> Pair:
        """The level that was reached, in the scheduler's own scaling: by how much a solver misses that is the sample's own."""
        alpha, sigma = reached
        return self.family.scaled(reached) if sigma > CLEAN * alpha else (1.0, 0.0)


def schedule_times(schedule: Schedule, levels: Sequence[Pair]) -> Tensor:
    """The times of a schedule that have the log-SNR of each (alpha, sigma); those beyond its ends go to the ends.

    Args:
        schedule: whose times they are.
        levels: (alpha, sigma) of each, in any common scaling.

    Returns:
        (n,) float64.
    """
    return _times_of(schedule, torch.tensor([log_snr(pair) for pair in levels], dtype=torch.float64))


def _sizes(schedule: Schedule, levels: Sequence[Pair]) -> list[float]:
    """sqrt(alpha² + sigma²) of a schedule at the log-SNR of each level."""
    sizes: list[float] = torch.hypot(*schedule.coefficients(schedule_times(schedule, levels))).tolist()
    return sizes


def _times_of(schedule: Schedule, levels: Tensor) -> Tensor:
    low, high = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0))
    return schedule.time_of_log_snr(levels.clamp(low, high))


class Following(Scheduled):
    """A scheduler by its class's name that takes the table of whatever schedule it is run on; see `make`.

    Before it meets a schedule, its table is DDPM's linear one.

    Args:
        name: the class, such as "EulerDiscreteScheduler".
        steps: what its `set_timesteps` is given.
        options: what its constructor takes.
    """

    def __init__(self, name: str, steps: int, options: Mapping[str, Any]):
        self._recipe = (name, steps, dict(options))
        self._met: Any = None
        self.__dict__.update(vars(make(name, steps, options)))

    def _meet(self, schedule: Schedule) -> None:
        described = describe(schedule)
        if described != self._met:
            name, steps, options = self._recipe
            self.__dict__.update(vars(make(name, steps, options, schedule=schedule)))
            self._met = described

    def conditioning_times(self, schedule: Schedule) -> Tensor:
        self._meet(schedule)
        return super().conditioning_times(schedule)

    def factors(self, schedule: Schedule) -> list[float]:
        self._meet(schedule)
        return super().factors(schedule)

    def run(self, model: Model, x: Tensor, cond: Tensor | None, noise: Noise) -> Iterator[Step]:
        self._meet(model.schedule)
        return super().run(model, x, cond, noise)


def reached_levels(scheduler: SchedulerMixin | Any, steps: int) -> tuple[Tensor, Tensor]:
    """What a scheduler's own arithmetic makes of each transition.

    From a state at the level that the scheduler takes it to have and a prediction without error, entry k says which level
    the network is conditioned on next, by the timestep's label, and which one step k lands on; internal evaluations are left
    out. Where the two differ, the sampler shifts with a perfect model. Levels are exact to
    rounding, SASolver's to about 0.01.

    Args:
        scheduler: a diffusers scheduler.
        steps: how many steps it is set to.

    Returns:
        (conditioning, reached) log-SNR, float64, both (n - 1,).

    Raises:
        ValueError: as `Scheduled` does.
    """
    update = Scheduled(scheduler, steps)
    reached = torch.tensor([log_snr(pair) for pair in rehearse(update, 2**17)], dtype=torch.float64)
    true = ~torch.tensor(update.internal())[1:]
    return update.labels()[1:][true], reached[:-1][true]
