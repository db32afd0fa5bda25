"""What a folder's scheduler says of its network: the schedule, the prediction, the time; and how its pipeline samples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError, TimeInput
from noiseshift.checkpoints.diffusers.parts import read_json
from noiseshift.checkpoints.diffusers.recognising import Found
from noiseshift.diffusion.families import CONSISTENCY_SCALE
from noiseshift.diffusion.samplers import Scheduled, from_diffusers
from noiseshift.diffusion.schedules import Discrete, Linear, Schedule, VarianceExploding

PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v_prediction"}

MOST_STEPS = 100_000
"""A longer table of noise levels is none."""

CONSISTENCY = "CMStochasticIterativeScheduler"
"""The scheduler of consistency models of pixels, which has their preconditioning."""


# What these pipelines change in the scheduler they are given.
FIXED = {"StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False}}
CONVERTED = {"DDIMPipeline": "DDIMScheduler"}
"""The scheduler that a pipeline makes of whatever scheduler it is given."""


def time_input(time: TimeInput, schedule: Schedule) -> Callable[[Tensor], Tensor]:
    """What the network is given. Not rounded: a sampler between two steps of the table says so, and that is measured.

    Args:
        time: its convention.
        schedule: its own.
    """
    if time.conditioning != "t":
        return functools.partial(time, schedule)
    return lambda t: (time.scale * t + time.offset).clamp_min(0)


def read_scheduler(found: Found) -> Any:
    """The scheduler that the folder's configuration makes, changed as its pipeline changes it."""
    import diffusers

    path = found.path / "scheduler"
    config = read_json(path / "scheduler_config.json")
    name = CONVERTED.get(found.pipeline, str(config.get("_class_name", "")))
    made = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if made is None:
        raise CheckpointError(f"{path}: diffusers has no scheduler {name!r}; correct its scheduler_config.json")
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise CheckpointError(f"{path}: num_train_timesteps is {str(steps)[:40]}: correct its scheduler_config.json")
    scheduler = made.from_config(config)
    fixed = {key: value for key, value in FIXED.get(found.pipeline, {}).items() if key in scheduler.config}
    return made.from_config(config, **fixed)


def convention(found: Found, scheduler: Any) -> tuple[Schedule, Any, TimeInput]:
    """Schedule, prediction and time as the network was trained: the table of a DDPM, or a flow conditioned on sigma.

    A flow scheduler's shift only says which sigmas the sampler visits.

    Args:
        found: the folder.
        scheduler: its own.

    Raises:
        CheckpointError: networks of this kind are not trained with such a scheduler.
    """
    name = type(scheduler).__name__
    place = found.path / "scheduler"
    if found.network in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        if "FlowMatch" not in name:
            raise CheckpointError(f"{place}: {name} is none of FlowMatch*, which a {found.pipeline} is trained with")
        # Flux's own forward multiplies by 1000.
        return Linear(), "velocity", TimeInput("data", 1.0 if found.network.startswith("Flux") else 1000.0)
    if name == CONSISTENCY and found.network == "UNet2DModel":
        ends = VarianceExploding(scheduler.config.sigma_min, scheduler.config.sigma_max)
        return ends, "x0", TimeInput("data", CONSISTENCY_SCALE, conditioning="log_sigma")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise CheckpointError(f"{place}: {name} has no alphas_cumprod, which a {found.network} is trained on")
    prediction = PREDICTIONS.get(getattr(scheduler.config, "prediction_type", "epsilon"))
    if prediction is None:
        raise CheckpointError(f"{place}: prediction_type must be one of {', '.join(PREDICTIONS)}")
    schedule = Discrete(scheduler.alphas_cumprod.double())
    return schedule, prediction, TimeInput("data", float(len(schedule.times)), -1.0)


def own_sampler(found: Found, scheduler: Any, network: Any, shape: tuple[int, int, int]) -> Callable[[int], Scheduled]:
    """Makes the folder's own scheduler with n steps, at its pipeline's times.

    Args:
        found: the folder.
        scheduler: its own.
        network: its own; the size of its patches decides a flow's shift.
        shape: (C, H, W) of a state.
    """

    def sampler(steps: int) -> Scheduled:
        timing: dict[str, Any] = {}
        if found.pipeline == "FluxPipeline":
            timing = {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": _dynamic_shift(scheduler, shape, 2)}
        elif scheduler.config.get("use_dynamic_shifting"):
            timing = {"mu": _dynamic_shift(scheduler, shape, int(network.config["patch_size"]))}
        known = inspect.signature(scheduler.set_timesteps).parameters
        try:
            return from_diffusers(scheduler, steps, timing={k: v for k, v in timing.items() if k in known})
        except (TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
            where = found.path / "scheduler" / "scheduler_config.json"
            raise CheckpointError(f"{where} cannot be followed ({type(error).__name__}): correct it") from error

    return sampler


def _dynamic_shift(scheduler: Any, shape: tuple[int, int, int], patch: int) -> float:
    """mu, a straight line in the number of tokens (Esser et al., arXiv 2403.03206, § 5.3.2, as Flux uses it)."""
    tokens = (shape[1] // patch) * (shape[2] // patch)
    config = scheduler.config
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(first + (tokens - low) * (last - first) / (high - low))


def known_levels(schedule: Schedule, scheduler: Any) -> Tensor | None:
    """The times that the network knows: the table's, or those that a consistency model was distilled at (LCM, TCD, and
    those of pixels, at noise scales even in sigma^(1/rho)).

    Args:
        schedule: the network's.
        scheduler: of its folder.

    Returns:
        The times, rising; None where it knows all.
    """
    if isinstance(schedule, VarianceExploding):
        scheduler.set_timesteps(scheduler.config.num_train_timesteps)
        sigmas = scheduler.sigmas[:-1].double().clamp(scheduler.config.sigma_min, scheduler.config.sigma_max)
        return schedule.time_of_sigma(sigmas).flip(0).contiguous()
    if not isinstance(schedule, Discrete):
        return None
    kept = scheduler.config.get("original_inference_steps")
    every = max(1, len(schedule.times) // kept) if isinstance(kept, int) and kept > 0 else 1
    return schedule.times[every - 1 :: every].contiguous()
