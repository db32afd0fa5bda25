"""Checks of where a run starts, and of how many steps it takes."""

from __future__ import annotations

import math

from noiseshift.audit.finding import PURE, SEEN, Finding
from noiseshift.audit.labels import remedy_apart
from noiseshift.audit.levels import Levels, log_snr
from noiseshift.diffusion.families import Preserving


def image_start(levels: Levels) -> Finding | None:
    """A run from an image that is noised to another level than the first conditioning level."""
    if levels.start is None or levels.frame.empty:
        return None
    row = levels.frame.iloc[0]
    held = log_snr(levels.start)
    size = abs(min(max(held, -PURE), PURE) - min(max(row.label_log_snr, -PURE), PURE))
    if size <= SEEN:
        return None
    return Finding(
        "image-start",
        f"the image is noised to log-SNR {held:.2f}, and the network is first conditioned on label {row.label:g}, "
        f"{row.label_log_snr:.2f}",
        remedy_apart(levels)
        if abs(held - row.state_log_snr) <= SEEN
        else "noise the image at the first state's own level",
        size,
    )


def first_state(levels: Levels) -> Finding | None:
    """A first state, as it was seen, that holds another amount of noise than its conditioning level: a run that is handed
    over or restarted at the wrong place. Texture adds to what is read, so that little noise is not judged."""
    if levels.first_sigma is None or levels.start is not None or levels.frame.empty:
        return None
    row = levels.frame.iloc[0]
    ratio = levels.first_sigma / max(row.state_sigma, 1e-12)
    share = 1 / math.sqrt(1 + math.exp(row.state_log_snr))
    if not (ratio < 0.9 or (ratio > 1.1 and share > 0.3)):
        return None
    return Finding(
        "first-state",
        f"the first state holds noise of sigma = {levels.first_sigma:.3g} by its finest Haar band, and the run starts at label "
        f"{row.label:g}, sigma = {row.state_sigma:.3g}",
        "start where the state's own level is: noise it by the scheduler's add_noise at the first timestep, or set the first "
        "timestep to its level",
        2 * abs(math.log(max(ratio, 1e-6))),
    )


def strength_read(levels: Levels) -> Finding | None:
    """Strength counts steps, not noise: where a run from an image really starts."""
    if levels.start is None or levels.frame.empty:
        return None
    row = levels.frame.iloc[0]
    level = "sigma" if not isinstance(levels.family, Preserving) else "sqrt(1 - abar)"
    return Finding(
        "strength",
        f"{len(levels.states)} of {levels.steps} steps are taken, from label {row.label:g}: {level} = {row.state_sigma:.3g}",
        "strength is a share of the steps, not of the noise: choose it by the level it starts at",
        math.nan,
    )


def fewer_steps(levels: Levels) -> Finding | None:
    """A scheduler that takes another number of steps than it was asked for."""
    taken = len(levels.states)
    if levels.begin or levels.steps in (taken, len(levels.frame)):
        return None
    return Finding(
        "step-count",
        f"{taken} steps are taken where {levels.steps} were asked for",
        "count what runs, not what was asked",
        math.nan,
    )
