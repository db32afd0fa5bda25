"""Final samples of a finer run that were made before, for the content control: read from the cache folder or the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.solvers import Solver
from noiseshift.networks.model import NetworkModel
from noiseshift.studies import kept, shipped
from noiseshift.studies.kept_calibration import comparable
from noiseshift.studies.protocol import Protocol, fingerprint

LARGEST = 16_000_000
"""Bytes of one batch of final samples that are kept."""

DECIDE = (
    "checkpoint",
    "shape",
    "conditions",
    "schedule",
    "sampler",
    "solver",
    "guidance",
    "seed",
    "precision",
    "device",
)
"""What of a protocol's fingerprint decides a sample; estimators, levels and data do not."""


def kept_or_sampled(
    checkpoint: Checkpoint, protocol: Protocol, finer: Solver, indices: range, made: Callable[[], Tensor]
) -> Tensor:
    """Final samples `indices` of the finer run as the cache or the package has them, or as `made` makes them, which are
    then kept.

    Args:
        checkpoint: what is sampled.
        protocol: with its guidance and seed.
        finer: the solver of more steps.
        indices: which samples; they go through the network together, which decides their rounding.
        made: samples them: (len(indices), …).
    """
    about = about_samples(checkpoint, protocol, finer, indices, _rows_at_once(checkpoint))
    if about is None:
        return made()
    arrays = kept.load("samples", about) or shipped.load("samples", about)
    if arrays is not None:
        return torch.from_numpy(arrays["final"]).to(protocol.device)
    final = made()
    if final.dtype == torch.float32:
        kept.save("samples", about, {"final": final.cpu().numpy()})
    return final


def about_samples(
    checkpoint: Checkpoint, protocol: Protocol, finer: Solver, indices: range, rows: int | None
) -> dict[str, Any] | None:
    """Everything that decides final samples of the finer run; None where none are kept.

    Args:
        checkpoint: what is sampled.
        protocol: with its guidance and seed.
        finer: the solver of more steps.
        indices: which samples.
        rows: how many go through the network at once; None: all that it is given.
    """
    if not _kept(checkpoint, len(indices)):
        return None
    found = fingerprint(checkpoint, replace(protocol, solver=finer))
    decide = {name: found[name] for name in DECIDE}
    return decide | {"indices": [indices.start, indices.stop], "rows at once": rows}


def _kept(checkpoint: Checkpoint, count: int) -> bool:
    """Whether samples of this checkpoint are kept: their network can be compared, and they are small."""
    if kept.folder() is None or not comparable(checkpoint):
        return False
    known = checkpoint.sampled is None or isinstance(checkpoint.sampled, NetworkModel)
    return known and 4 * count * int(np.prod(checkpoint.shape)) <= LARGEST


def _rows_at_once(checkpoint: Checkpoint) -> int | None:
    return checkpoint.model.halving.rows if isinstance(checkpoint.model, NetworkModel) else None
