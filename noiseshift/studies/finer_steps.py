"""A run with N, 2N and 4N steps.

Solvers of ours follow one Brownian path: the coarse run's noise is the sum of the finest one's. Schedulers of diffusers take
their own steps from the same initial noise; one that draws noise draws it anew in each run, so that only means are compared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import SAMPLING, generators
from noiseshift.diffusion.refining import refine, refined_noise
from noiseshift.diffusion.samplers import Scheduled, Step, per_sample_noise
from noiseshift.diffusion.scheduler_steps import log_snr
from noiseshift.diffusion.schedules import Schedule
from noiseshift.diffusion.solving import Solver
from noiseshift.shift.refinement import FACTORS
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.sampling import path, sampler_run

Start = Callable[[Model, Protocol, range], Iterator[Step]]
"""Called as (model, protocol, indices of samples)."""

COUNTS: Sequence[Callable[[int, int], int]] = (
    lambda steps, factor: factor * steps,
    lambda steps, factor: factor * (steps - 1) + 1,
)
"""How many steps a scheduler is set to, so that `factor` intervals come of one: of N times that stop short of the end of their
range, and of N that begin and end with it."""

FINEST = (FACTORS[-1], 5)
"""The finest run's steps: 5 N where 4 N do not divide the table, as 80 do not divide 1,000."""

DRAWING_ANEW = {
    "CMStochasticIterativeScheduler",
    "FlowMatchLCMScheduler",
    "LCMScheduler",
    "SCMScheduler",
    "TCDScheduler",
}

SAME_TIME = 1e-6
SAME_LEVEL = 0.01
"""In log-SNR: of the states of two runs that are conditioned on the same time."""

SAME_STEP = 0.05
"""By how much of its length in log-SNR a step may miss."""

SECOND_ORDER = {
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
}


@dataclass(frozen=True)
class FinerSteps:
    """The runs that refine a protocol's own.

    Attributes:
        order: the solver's weak order, as it is known or set; three runs check it.
        starts: one for each of `factors`; the first has the protocol's own steps.
        factors: steps of each, in units of the protocol's.
    """

    order: float
    starts: tuple[Start, ...]
    factors: tuple[int, ...] = FACTORS


def finer_steps(checkpoint: Checkpoint, protocol: Protocol) -> FinerSteps | None:
    """The runs with N, 2N and 4N steps.

    Args:
        checkpoint: what is sampled.
        protocol: with its solver, bound to the checkpoint.

    Returns:
        The runs; None where the solver has no order, the model or the scheduler has no finer steps that pass through the same
        levels, or where a cache samples, whose error does not go with the steps.
    """
    if checkpoint.sampled is not None:
        return None
    if isinstance(protocol.solver.update(), Scheduled):
        return _of_scheduler(checkpoint, protocol.solver)
    return _of_solver(checkpoint, protocol.solver)


def _of_solver(checkpoint: Checkpoint, solver: Solver) -> FinerSteps | None:
    times = solver.grid(checkpoint.model)
    if solver.order is None or times is None:
        return None
    grids = [times if factor == 1 else refine(checkpoint.model, times, factor) for factor in FACTORS]
    if len(grids[-1]) <= FACTORS[-1] * (len(times) - 1):
        return None
    starts = tuple(functools.partial(_on_path, checkpoint, grid, grids[-1]) for grid in grids)
    return FinerSteps(solver.order, starts)


def _on_path(
    checkpoint: Checkpoint, times: Tensor, finest: Tensor, model: Model, protocol: Protocol, indices: range
) -> Iterator[Step]:
    """The steps under these times, on the Brownian path of the finest ones."""
    sources = generators(indices, seed=protocol.seed, stream=SAMPLING)
    noise = per_sample_noise(sources) if times is finest else refined_noise(sources, times, finest)
    return path(model, checkpoint, protocol, indices, times, noise)


def _of_scheduler(checkpoint: Checkpoint, solver: Solver) -> FinerSteps | None:
    coarse = solver.update()
    assert isinstance(coarse, Scheduled)
    if draws_anew(coarse.scheduler):
        return None
    for count in COUNTS:
        middle = _finer(checkpoint, solver, coarse, count(solver.steps, FACTORS[1]))
        for factor in FINEST if middle else ():
            fine = _finer(checkpoint, solver, coarse, count(solver.steps, factor))
            if middle and fine:
                starts = [functools.partial(_at_own_times, checkpoint, each) for each in (solver, middle, fine)]
                return FinerSteps(order_of(coarse.scheduler), tuple(starts), (1, FACTORS[1], factor))
    return None


def draws_anew(scheduler: Any) -> bool:
    """Whether each of its steps draws all noise of the next state, however short the step: more steps then lead nowhere.

    Args:
        scheduler: of diffusers.
    """
    return type(scheduler).__name__ in DRAWING_ANEW or bool(scheduler.config.get("stochastic_sampling", False))


def _finer(checkpoint: Checkpoint, solver: Solver, coarse: Scheduled, steps: int) -> Solver | None:
    """The solver with so many steps, None where it takes no so many or does not pass through the coarse run's states."""
    try:
        finer = solver.with_steps(steps).bound(checkpoint)
        update = finer.update()
    except (NotImplementedError, ValueError):  # more steps than its table has
        return None
    assert isinstance(update, Scheduled)
    through = lands(update) and passes_through(coarse, update, checkpoint.model.schedule)
    return finer if through else None


def lands(update: Scheduled) -> bool:
    """Whether each step goes to the next state's level. DDIM's do not where its steps do not divide the table: it then makes a
    shift that more steps do not take away.

    Args:
        update: a scheduler that was rehearsed.
    """
    before: float | None = None
    landed = math.nan
    for level, internal, end in zip(update.levels(), update.internal(), update.landed, strict=True):
        here = log_snr(level)
        if not internal:
            if before is not None and not abs(landed - here) <= SAME_STEP * abs(here - before):
                return False
            before = here
        landed = log_snr(end)
    return True


def _at_own_times(
    checkpoint: Checkpoint, solver: Solver, model: Model, protocol: Protocol, indices: range
) -> Iterator[Step]:
    return sampler_run(model, checkpoint, replace(protocol, solver=solver), indices)


def passes_through(coarse: Scheduled, fine: Scheduled, schedule: Schedule) -> bool:
    """Whether a run meets the states of another at the same conditioning times and the same levels.

    Args:
        coarse: whose states they are.
        fine: the run that is to meet them.
        schedule: the model's, which gives the times.
    """
    there = _states(fine, schedule)
    for t, level in _states(coarse, schedule):
        # A report reads the first state of each time.
        met = next((other for time, other in there if abs(time - t) < SAME_TIME), None)
        if met is None or abs(met - level) > SAME_LEVEL:
            return False
    return True


def _states(update: Scheduled, schedule: Schedule) -> list[tuple[float, float]]:
    """(conditioning time, log-SNR) of a run's states strictly between data and noise."""
    times: list[float] = update.conditioning_times(schedule).tolist()
    found = zip(times, update.levels(), update.internal(), strict=True)
    return [(t, log_snr(level)) for t, level, internal in found if 0 < t < 1 and not internal]


def order_of(scheduler: Any) -> float:
    """The order that a scheduler's steps are meant to have: its `solver_order`, 2 of Heun's kind, else 1."""
    if type(scheduler).__name__ in SECOND_ORDER:
        return 2.0
    return float(scheduler.config.get("solver_order", 1))
