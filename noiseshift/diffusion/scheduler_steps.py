"""One step of a scheduler of diffusers, by its own code: what it is handed, what it draws, which calls are inside a step."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from noiseshift.diffusion.families import Pair
from noiseshift.diffusion.steps import NEEDS_NOISE, Noise, PerSampleNoise


def log_snr(pair: Pair) -> float:
    """log(alpha² / sigma²) of (alpha, sigma); finite where one of the two is 0."""
    return 2 * (math.log(max(pair[0], 1e-30)) - math.log(max(pair[1], 1e-30)))


def name_of(scheduler: Any) -> str:
    """The class of a scheduler, by which users know it."""
    return type(scheduler).__name__


def refused(scheduler: Any, steps: int, error: Exception) -> ValueError:
    """What is raised where a scheduler's own code fails.

    Args:
        scheduler: whose code it is.
        steps: how many steps it was set to.
        error: what it raised; its first 160 characters are repeated.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{name_of(scheduler)} is no scheduler that can be followed in {steps} steps as it is set: {reason[:160]}"
    )


def advance(scheduler: Any, output: Tensor, index: int, state: Tensor, noise: Noise) -> Tensor:
    """The state after one call of a scheduler's `step`.

    Args:
        scheduler: with its timesteps set; it keeps a history, which this changes.
        output: (B, …) the prediction, in the form that it was trained to take.
        index: which of its timesteps.
        state: (B, …) in its own scaling.
        noise: what it draws from.

    Returns:
        (B, …) in its own scaling.
    """
    label = scheduler.timesteps[index]
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(state, label)  # some only count their steps here
    known = inspect.signature(scheduler.step).parameters
    given = {}
    if "generator" in known:
        given["generator"] = _generators(noise, state)
    if "prev_timestep" in known and index + 1 < len(scheduler.timesteps):
        # As UnCLIP's pipelines do; alone it would take one step of 1000.
        given["prev_timestep"] = scheduler.timesteps[index + 1]
    return scheduler.step(output, label, state, return_dict=False, **given)[0]


def internal_of(scheduler: Any) -> list[bool]:
    """Which evaluations are inside a step, and not states of the run."""
    n = len(scheduler.timesteps)
    if getattr(scheduler, "order", 1) == 2:
        return [i % 2 == 1 for i in range(n)]
    if hasattr(scheduler, "order_list"):  # singlestep solvers start again from the state where the order is 1
        return [order > 1 for order in scheduler.order_list]
    if not hasattr(scheduler, "prk_timesteps"):
        return [False] * n
    # PNDM: four evaluations a Runge-Kutta step; without those its second label is evaluated twice, first for a trial state.
    runge = len(scheduler.prk_timesteps)
    return [i % 4 != 0 for i in range(runge)] + [runge == 0 and n > 2 and i == 1 for i in range(n - runge)]


class _NoGenerator:
    """Stands in for a generator: asking it for noise names the remedy, where diffusers would draw unseeded noise."""

    @property
    def device(self) -> torch.device:
        raise ValueError(NEEDS_NOISE)


def _generators(noise: Noise, x: Tensor) -> Any:
    """Schedulers draw their own noise: what they are handed for it, one generator per row."""
    if not isinstance(noise, PerSampleNoise):
        return _NoGenerator()
    noise.check(x)
    return noise.torch_generators
