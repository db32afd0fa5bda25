"""What a run will need, seen before it samples: too small a disk or memory, or a reference of other features, is one line then
and not the end of a long run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.memory import require_memory
from noiseshift.evaluation import Extractor, Features, Moments, extract, require_enough, require_width
from noiseshift.studies.folders import pictures_of
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.shards import Shards

BYTES = 32
"""A number of a batch: float64 noise, then float32 states, predictions and their parts. A reading: two numbers, of samples
and of re-noised final samples."""


def require_room(checkpoint: Checkpoint, protocol: Protocol, shards: Shards | None, *, final_samples: int) -> None:
    """Raise ValueError where memory, or the disk that batches are kept on, cannot hold a run.

    Args:
        checkpoint: what is sampled.
        protocol: how.
        shards: where finished batches are kept, or None.
        final_samples: how many final samples are kept with them.
    """
    state = math.prod(checkpoint.shape)
    batch = min(protocol.batch, protocol.samples)
    points = min(protocol.points, protocol.solver.steps)
    read = (
        BYTES * points * sum(min(rows or protocol.samples, protocol.samples) for rows in protocol.estimators.values())
    )
    require_memory(BYTES * batch * state, f"a batch of {batch:,} samples", "take a smaller --batch")
    require_memory(read + final_samples * state, f"a run of {protocol.samples:,} samples", "take fewer --samples")
    if shards is not None:
        _require_disk(shards.root.parent, read + 4 * final_samples * state)


def _require_disk(folder: Path, size: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"the run's batches take about {_said(size)}, {folder.absolute()} has {_said(free)} free: free some space, take fewer "
            "--samples, or write to another disk"
        )


def _said(size: int) -> str:
    """Bytes in words, with a unit in which they are not 0.0."""
    return (
        f"{size / 2**30:,.1f} GB"
        if size >= 2**30
        else f"{size / 2**20:,.1f} MB"
        if size >= 2**20
        else f"{size:,} bytes"
    )


def require_reference(
    checkpoint: Checkpoint, extractor: Extractor, reference: Features | Moments, samples: int, *, small: bool
) -> None:
    """Raise ValueError where no distance of the samples to `reference` can be taken: too few of them unless `small`, or a
    reference of another extractor's features.

    Args:
        checkpoint: whose samples are compared.
        extractor: what computes their features.
        reference: features or moments of real images.
        samples: how many are drawn.
        small: allow no more samples than features.
    """
    if not small:
        require_enough(samples, reference)
    blank = pictures_of(checkpoint.decode(torch.zeros(1, *checkpoint.shape)))
    require_width(extract(blank, extractor), reference)
