"""The checks before a study's first number, and what `strict` makes of one that fails."""

from __future__ import annotations

import functools

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.shift.preflight import SAMPLES, Preflight, preflight
from noiseshift.studies.kept_calibration import kept_or_checked
from noiseshift.studies.sampling import Progress


def checked(
    checkpoint: Checkpoint,
    data: Images | None,
    *,
    device: str = "cpu",
    samples: int = SAMPLES,
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Preflight:
    """`shift.preflight` of a study. Raises ValueError for a check that failed, under `strict`.

    Args:
        checkpoint: as the study has it.
        data: real images, or None.
        device: where the network computes.
        samples: how many are drawn to compare with the data.
        strict: whether a failed check stops the study.
        progress: called as (stage, done, total).
    """
    progress("preflight", 0, 1)
    made = functools.partial(preflight, checkpoint, data, device=device, samples=samples)
    found = kept_or_checked(checkpoint, data, device, samples, made)
    progress("preflight", 1, 1)
    if strict and not found.passed:
        failed = "; ".join(f"{check.name}: {check.sentence}" for check in found.failures)
        raise ValueError(f"{failed} (leave --strict out to go on all the same)")
    return found
