"""What is left in a run's finished samples: their residual noise, before and after decoding."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.shift.final_noise import COLUMNS, LevelReader, Reader, default_readers, residual_noise
from noiseshift.studies.protocol import Protocol

log = logging.getLogger(__name__)

REAL, DECODED = 256, 64
"""Real images that are read beside the samples, and latents of them that are decoded, at most."""


def finished(checkpoint: Checkpoint, protocol: Protocol, final: Tensor, real: Images) -> pd.DataFrame:
    """The residual noise of final states, against real data of the half that calibrates. A run with controls reads it by the
    checkpoint's level estimator too, where that is one of its estimators: it costs as much as sampling a few states.

    Args:
        checkpoint: on the protocol's device.
        protocol: its seed, and what reads.
        final: (n, …) final states.
        real: held-out data as states.

    Returns:
        The rows of `residual_noise` with a column `space`: "pictures", or "latents" and, where there is an autoencoder, "decoded".
    """
    states = real.floats[:REAL]
    readers = default_readers(states)
    if protocol.controls and "network" in protocol.estimators:
        readers["level"] = LevelReader(checkpoint.level_estimator(), device=protocol.device, seed=protocol.seed)
    frame = _read(final, states, readers, None if checkpoint.latent else 2.0, protocol.seed)
    frame.insert(0, "space", "latents" if checkpoint.latent else "pictures")
    if not checkpoint.latent or checkpoint.autoencoder is None:
        return frame
    pictures = _decoded(checkpoint, final)
    real_ones = _decoded(checkpoint, states[:DECODED])
    decoded = _read(pictures, real_ones, default_readers(real_ones), 2.0, protocol.seed)
    decoded.insert(0, "space", "decoded")
    return pd.concat([frame, decoded], ignore_index=True)


def _read(samples: Tensor, real: Tensor, readers: Mapping[str, Reader], peak: float | None, seed: int) -> pd.DataFrame:
    """What the readers find; one that is of no use on these data is left out, and says so on the log."""
    frames = []
    for name, reader in readers.items():
        try:
            frames.append(residual_noise(samples, real, readers={name: reader}, peak=peak, seed=seed))
        except ValueError as error:
            log.warning("the residual noise was not read by %s: %s", name, error)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS, "psnr"])


@torch.no_grad()
def _decoded(checkpoint: Checkpoint, states: Tensor) -> Tensor:
    parts = [checkpoint.decode(states[k : k + 8]).float().cpu() for k in range(0, len(states), 8)]
    return torch.cat(parts)
