"""`noiseshift sample` from end to end: a protocol's samples as pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint, load
from noiseshift.shift.reading import BatchReadings
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.folders import pictures_of
from noiseshift.studies.pace import set_pace
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.room import require_room
from noiseshift.studies.sampling import Progress, guided, in_batches, labels, sampler_run
from noiseshift.studies.shards import Shards

MARGIN, MUCH = 0.1, 0.05
"""How far beyond black and white (-1 and 1) a number is no rounding of a network's, and the share of such that is said."""


def draw(
    checkpoint: Checkpoint,
    protocol: Protocol,
    *,
    shards: Shards | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """The protocol's samples as uint8 pictures (N, C, H, W), and their classes.

    Args:
        checkpoint: what is sampled.
        protocol: how.
        shards: where batches are kept, or None.
        progress: called as (stage, done, total).
    """
    protocol = protocol.bound(checkpoint)
    require_room(checkpoint, protocol, shards, final_samples=protocol.samples)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    model = guided(checkpoint, protocol)
    set_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol), shards)

    def make(indices: range) -> BatchReadings:
        *_, last = sampler_run(model, checkpoint, protocol, indices)
        return BatchReadings(len(indices), last.x, labels(checkpoint, indices))

    batches = in_batches(protocol, make, shards, progress, "sampling")
    parts, beyond = [], []
    for batch in batches:
        decoded = checkpoint.decode(batch.final)
        parts.append(pictures_of(decoded))
        beyond.append(float((decoded.abs() > 1 + MARGIN).double().mean()))
    if not parts[0].is_floating_point():
        _warn(sum(beyond) / len(beyond))
    return torch.cat(parts), labels(checkpoint, range(protocol.samples))


def _warn(share: float) -> None:
    """Say how much of the numbers does not fit into pictures, where that is much."""
    if share > MUCH:
        logging.getLogger("noiseshift").warning(
            "%.0f %% of the numbers lie beyond black and white, and are cut there: where the network's pixels are not from -1 to "
            "1, say its range in the card",
            100 * share,
        )


def preview(path: Path, *, samples: int = 40) -> tuple[Tensor, Tensor | None]:
    """What a network that was just trained makes: uint8 pictures (N, C, H, W) by 50 Euler steps, and their classes.

    Args:
        path: of the checkpoint.
        samples: how many.
    """
    return draw(load(path), Protocol("euler:50", samples=samples))
