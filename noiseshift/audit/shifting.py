"""A flow's time shift, sigma -> s sigma / (1 + (s - 1) sigma) (Esser et al., arXiv 2403.03206, § 5.3.2), once and twice.

FlowMatchEulerDiscreteScheduler shifts its table when it is made, takes the ends of that table for its default sigmas, and
shifts them again (diffusers issue 13243). The largest sigma stays 1; the smallest does not stay.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from noiseshift.audit.finding import SEEN, Finding
from noiseshift.audit.levels import Levels
from noiseshift.diffusion.families import Flow

Array = np.ndarray[Any, Any]


def shift(sigma: Array, factor: float) -> Array:
    """The shifted sigmas.

    Args:
        sigma: in [0, 1], of any shape.
        factor: s, above 0; 1 leaves them.
    """
    return factor * sigma / (1 + (factor - 1) * sigma)


def shifted(levels: Levels) -> Array | None:
    """The sigmas of the scheduler's default run if they were shifted once; None where they were not shifted twice."""
    setting = levels.subject.setting
    timing = levels.timing
    factor = getattr(levels.scheduler, "shift", setting("shift"))
    count = setting("num_train_timesteps")
    plain = not any(
        setting(n) for n in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal")
    )
    if not factor or factor == 1 or not plain or "mu" in timing or "sigmas" in timing or "timesteps" in timing:
        return None
    once = shift(np.linspace(1, 1 / count, levels.steps), float(factor))[levels.begin :]
    twice = shift(np.linspace(1, shift(np.array(1 / count), float(factor)), levels.steps), float(factor))[
        levels.begin :
    ]
    held = np.asarray(levels.states.state_sigma, dtype=float)
    return once if len(twice) == len(held) and np.allclose(held, twice, rtol=1e-3, atol=1e-6) else None


def shifted_before(levels: Levels) -> float | None:
    """The shift that custom sigmas hold already; None where they are even, or no shift of even ones."""
    given = np.asarray(levels.timing.get("sigmas", ()), dtype=float)
    if len(given) < 3 or not (0 < given).all() or not (given <= 1).all():
        return None
    for last in (1 / len(given), 1 / levels.subject.setting("num_train_timesteps", 1000)):
        even = np.linspace(1, last, len(given))
        middle = len(given) // 2
        factor = given[middle] * (1 - even[middle]) / (even[middle] * (1 - given[middle]))
        if abs(factor - 1) > 0.01 and np.allclose(shift(even, factor), given, rtol=5e-3, atol=5e-4):
            return float(factor)
    return None


def shifted_twice(levels: Levels) -> Finding | None:
    """A flow's shift that is applied to levels which are shifted already."""
    if not isinstance(levels.family, Flow):
        return None
    baked = shifted_before(levels)
    if baked is not None:
        return _baked(levels, baked)
    once = shifted(levels)
    if once is None:
        return None
    ratio = np.log(once / (1 - once).clip(1e-12)) - np.log(_sigmas(levels) / (1 - _sigmas(levels)).clip(1e-12))
    inside = once < 1 - 1e-6
    size = float(2 * np.abs(ratio[inside]).max()) if inside.any() else 0.0
    if size <= SEEN:
        return None
    factor = getattr(levels.scheduler, "shift", levels.subject.setting("shift"))
    return Finding(
        "shifted-twice",
        f"the shift of {float(factor):g} is applied twice: the smallest sigma was shifted when the scheduler was made and "
        f"is shifted again, to {_sigmas(levels)[-1]:.4g} in place of {once[-1]:.4g}",
        f"hand over sigmas: np.linspace(1, 1 / {levels.steps}, {levels.steps}), which are shifted once",
        size,
    )


def _baked(levels: Levels, factor: float) -> Finding | None:
    """Custom sigmas that hold a shift already."""
    second = (
        float(math.exp(levels.timing["mu"])) if "mu" in levels.timing else float(levels.subject.setting("shift", 1.0))
    )
    size = 2 * abs(math.log(second)) if second > 0 else 0.0
    if size <= SEEN:
        return None
    return Finding(
        "shifted-twice",
        f"the sigmas that were given hold a shift of {factor:.2f} already, and the scheduler shifts them by {second:.2f} more",
        f"hand over even sigmas, np.linspace(1, 1 / {levels.steps}, {levels.steps}), or set the scheduler's shift to 1",
        size,
    )


def _sigmas(levels: Levels) -> np.ndarray:
    return np.asarray(levels.states.state_sigma, dtype=float)


def shift_ignored(levels: Levels) -> Finding | None:
    """Two shifts are set, and one of them is not used."""
    name = next((n for n in ("shift", "flow_shift") if levels.subject.setting(n, 1.0) not in (1.0, None)), None)
    if name is None or "mu" not in levels.timing:
        return None
    return Finding(
        "shift-ignored",
        f"{name}={levels.subject.setting(name):g} is not used: with use_dynamic_shifting=True the shift is exp(mu) = "
        f"{math.exp(levels.timing['mu']):.2f}, by the picture's size",
        f"set use_dynamic_shifting=False for {name}, or leave {name} out",
        math.nan,
    )
