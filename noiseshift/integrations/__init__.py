"""Taps on a third-party loop: a diffusers pipeline, a sampler that calls a network, or any loop by `record`.

    with ns.observe(pipeline) as seen:
        pipeline(batch_size=64, num_inference_steps=50)
    print(seen.report(real_images).table())

Nothing but (N, K) numbers is kept, and the last samples, on which `report()` calibrates when it is given no real ones.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Readers
from noiseshift.integrations.adapters import Adapted
from noiseshift.integrations.calls import CallObserver
from noiseshift.integrations.pipeline import PipelineObserver, schedule_of
from noiseshift.integrations.recorder import Recorder

__all__ = ["CallObserver", "PipelineObserver", "Recorder", "observe"]


def observe(
    target: Any,
    estimators: Readers | None = None,
    *,
    schedule: Schedule | None = None,
    points: int = 8,
    times: Tensor | Literal["accepted"] | None = None,
) -> Any:
    """Watch every run of `target` inside a `with` block.

    Of a pipeline the network is watched too: a guided run's residual reads the conditional half of what the network
    predicted, not the guided mixture. Of an adapted model every call is paired with its conditioning time.

    Args:
        target: a diffusers pipeline or scheduler, or a model of `ns.adapters` while its library's own sampler calls its network.
        estimators: what reads the states as they pass, by name: instruments, or bare estimators, which `report` calibrates.
            Without any, only the sizes of the predicted noises are kept, which costs nothing and is what the `residual` report
            needs.
        schedule: of a pipeline's or scheduler's states; by default the scheduler's own, Linear for flow matching, else Discrete
            from its alphas_cumprod.
        points: how many times of a run are read.
        times: of an adapted model, the sampler's own grid in the library's units (its sigmas, its t), which distinguishes states
            from evaluations inside a step; "accepted" for adaptive solvers. See `CallObserver`.

    Returns:
        An observer, whose `report(real)` gives the shift.

    Raises:
        ValueError: for what cannot be followed.
    """
    if isinstance(target, Adapted):
        return CallObserver(target, estimators, points=points, times=times)
    if times is not None:
        raise ValueError("times= is for models of ns.adapters: a diffusers scheduler brings its own")
    scheduler = getattr(target, "scheduler", target)
    return PipelineObserver(target, schedule or schedule_of(scheduler), estimators, points)
