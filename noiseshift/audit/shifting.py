"""A flow's time shift, sigma -> s sigma / (1 + (s - 1) sigma) (Esser et al., arXiv 2403.03206, § 5.3.2), once and twice.

FlowMatchEulerDiscreteScheduler shifts its table when it is made, takes the ends of that table for its default sigmas, and
shifts them again (diffusers issue 13243). The largest sigma stays 1; the smallest does not stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from noiseshift.audit.levels import Levels

Array = np.ndarray[Any, Any]


def shift(sigma: Array, factor: float) -> Array:
    """The shifted sigmas."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def shifted(levels: Levels) -> Array | None:
    """The sigmas of the scheduler's default run if they were shifted once; None where they were not shifted twice."""
    setting, timing = levels.subject.setting, levels.timing
    factor, count = getattr(levels.scheduler, "shift", setting("shift")), setting("num_train_timesteps")
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
