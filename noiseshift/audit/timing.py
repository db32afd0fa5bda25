"""What a pipeline hands to its scheduler's `set_timesteps` beside the step count: sigmas, and mu for the picture's size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from noiseshift.audit.subject import Subject

EVEN_SIGMAS = (
    *("AuraFlow", "Bria", "Chroma", "DreamLite", "Flux", "Krea", "LTX", "Lumina2", "MotifVideo", "NucleusMoE", "Ovis"),
    *("QwenImage", "VisualCloze", "ZImage"),
)
"""Pipelines that hand over sigmas, even from 1 to 1/N; others leave them to the scheduler."""

SIZE = (1024, 1024)
"""The picture that mu is made for unless another size is named."""


def timing(
    subject: Subject,
    steps: int,
    size: tuple[int, int] | None,
    sigmas: Sequence[float] | None,
    timesteps: Sequence[float] | None,
) -> dict[str, Any]:
    """The keyword arguments of `set_timesteps`.

    Args:
        subject: the scheduler and its pipeline.
        steps: the step count, from which even sigmas are made.
        size: pixels of the picture, (height, width).
        sigmas: custom ones, handed over as they are.
        timesteps: custom ones, likewise.

    Raises:
        ValueError: where the scheduler takes no custom sigmas or timesteps.
    """
    known = inspect.signature(subject.scheduler.set_timesteps).parameters
    given: dict[str, Any] = {}
    for name, value in (("sigmas", sigmas), ("timesteps", timesteps)):
        if value is not None and name not in known:
            raise ValueError(f"{type(subject.scheduler).__name__} takes no {name}: leave them out")
        if value is not None:
            given[name] = [*map(float, value)]
    if not given and "sigmas" in known and subject.pipeline.startswith(EVEN_SIGMAS):
        given["sigmas"] = np.linspace(1.0, 1 / steps, steps).tolist()
    if dynamic(subject):
        given["mu"] = mu(subject, size or SIZE)
    return given


def dynamic(subject: Subject) -> bool:
    """Whether the levels depend on the picture's size."""
    known = inspect.signature(subject.scheduler.set_timesteps).parameters
    return bool(subject.setting("use_dynamic_shifting")) and "mu" in known


def tokens(subject: Subject, size: tuple[int, int]) -> int:
    """How many tokens a picture of `size` pixels, (height, width), has.

    Args:
        subject: of a pipeline, whose autoencoder and patches are known.
        size: pixels.
    """
    side = subject.factor * subject.patch
    return (size[0] // side) * (size[1] // side)


def mu(subject: Subject, size: tuple[int, int]) -> float:
    """The logarithm of the shift, a straight line in the number of tokens (Esser et al., arXiv 2403.03206, § 5.3.2, as Flux
    uses it).

    Args:
        subject: of a pipeline, whose scheduler says the line's two ends.
        size: (height, width) in pixels.
    """
    low, high = subject.setting("base_image_seq_len", 256), subject.setting("max_image_seq_len", 4096)
    first, last = subject.setting("base_shift", 0.5), subject.setting("max_shift", 1.15)
    return float(first + (tokens(subject, size) - low) * (last - first) / (high - low))
