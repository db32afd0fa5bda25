"""The checks before a study's first number, that of its samples, and what `strict` makes of one that fails."""

from __future__ import annotations

import functools
from dataclasses import replace

from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.shift.controls import Check
from noiseshift.shift.preflight import DIVERGED, SAMPLES, Preflight, preflight
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
    refuse_failures(found, strict)
    return found


def with_samples(checks: Preflight, final: Tensor, data: Images | None, *, strict: bool = False) -> Preflight:
    """The checks with one more, where the samples of the run itself diverge: their states are none that data lead to. Raises
    ValueError for it, under `strict`.

    Args:
        checks: those before the first number.
        final: (N, …) final states of the run.
        data: real images, as states, or None.
        strict: whether a failed check stops the study.
    """
    if data is None or len(final) < 2:
        return checks
    ours, theirs = (float(rows.double().var(0).sum()) for rows in (final, data.floats))
    if ours <= DIVERGED * theirs:
        return checks
    sentence = (
        f"this run's samples diverge: their spread is {ours / theirs:,.3g} times the data's, so that what is read are states that "
        "no data lead to; sample otherwise: in more steps, or with predicted data kept within a range, as diffusers' schedulers do "
        "under clip_sample=true"
    )
    found = replace(checks, checks=(*checks.checks, Check("samples", False, sentence)))
    refuse_failures(found, strict)
    return found


def refuse_failures(found: Preflight, strict: bool) -> None:
    """Raise ValueError for checks that failed, under `strict`.

    Args:
        found: the checks.
        strict: whether a failed check stops a study.
    """
    if strict and not found.passed:
        failed = "; ".join(f"{check.name}: {check.sentence}" for check in found.failures)
        raise ValueError(f"{failed} (leave --strict out to go on all the same)")
