"""Which part of a network's answers had the condition: by the arithmetic of the guidance itself.

A guided pipeline hands its scheduler a mixture of parts: u + s (c - u), three parts for InstructPix2Pix, a perturbed one for
PAG, each in one batch or in calls of their own, in an order that differs between pipelines. The weights of the parts follow
from the mixture by least squares, row by row, which `guidance_rescale` multiplies by one number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXACT = 1e-2
"""A mixture's relative distance from the best combination of its parts; half precision stays below."""

FIRST = {
    "DiTPipeline",
    "LuminaPipeline",
    "Lumina2Pipeline",
    "StableCascadeDecoderPipeline",
    "StableCascadePriorPipeline",
}
"""Pipelines whose batch starts with the condition (from their source, diffusers 0.42); in others it comes last."""


def blocks(outputs: Sequence[Tensor], rows: int, channels: int) -> list[tuple[int, slice, Tensor]]:
    """The parts of all calls: which call, which rows of it, and their first `channels` channels (rows, …).

    Args:
        outputs: what each call returned, (k rows, C, …).
        rows: how many samples there are.
        channels: how many channels a state has; a network may return more (a learned variance).
    """
    found = []
    for call, output in enumerate(outputs):
        for k in range(len(output) // rows if len(output) % rows == 0 else 0):
            part = slice(k * rows, (k + 1) * rows)
            found.append((call, part, output[part][:, :channels]))
    return found


def weights(mixture: Tensor, parts: Sequence[Tensor]) -> Tensor | None:
    """(parts,) float64 weights that sum to 1, or None where the mixture (rows, …) is no combination of the parts.

    Args:
        mixture: (rows, …) what the scheduler was handed.
        parts: (rows, …) what the network answered, each.
    """
    flat = torch.stack([part.double().flatten(1) for part in parts], -1)
    target = mixture.double().flatten(1)
    if flat.shape[:2] != target.shape or not bool(torch.isfinite(flat).all() and torch.isfinite(target).all()):
        return None
    solved = torch.linalg.pinv(flat, rtol=1e-6) @ target[..., None]
    off = (flat @ solved)[..., 0] - target
    if not bool((off.norm(dim=1) <= EXACT * target.norm(dim=1) + 1e-12).all()):
        return None
    solved = solved[..., 0]
    total = solved.sum(1, keepdim=True)
    if not bool((total.abs() > 1e-3).all()):
        return None
    shares: Tensor = solved / total
    return shares.median(0).values if bool((shares - shares.median(0).values).abs().max() < 0.1) else None


def conditional(mixture: Tensor, parts: Sequence[Tensor], known: int | None = None) -> int | None:
    """Which part had the condition; None where the arithmetic does not say.

    Guidance by more than one weighs the condition above one and something else below zero. Between, at a scale of at most
    one, the `known` order of the pipeline decides (see `order`).

    Args:
        mixture: (rows, …) what the scheduler was handed.
        parts: (rows, …) what the network answered, each.
        known: what `order` says.
    """
    found = weights(mixture, parts) if parts else None
    if found is None:
        return None
    if len(parts) == 1 or all(torch.allclose(part, parts[0]) for part in parts[1:]):
        return 0
    return int(found.argmax()) if float(found.min()) < -EXACT else known


def order(pipeline: str, parts: Sequence[tuple[int, slice, Tensor]]) -> int | None:
    """Where the condition stands in one batch of two, by the pipeline's source; None for calls of their own.

    Args:
        pipeline: its class's name.
        parts: (call, rows of its batch, answer) of each.
    """
    if not pipeline or len(parts) != 2 or parts[0][0] != parts[1][0]:
        return None
    return 0 if pipeline in FIRST else 1


def distinct_rows(sample: Tensor, mixture: Tensor, outputs: Sequence[Tensor]) -> int:
    """How many rows of a sample are states of their own: a batch that guidance doubled (DiT) has equal halves, mixed from
    answers that differ. Equal latents alone are no doubled batch.

    Args:
        sample: (B, …) what the scheduler was handed as its state.
        mixture: (B, …) what it was handed as the prediction.
        outputs: what the network answered since the last step.
    """
    half = len(sample) // 2
    if not half or len(sample) % 2 or not torch.equal(sample[:half], sample[half:]):
        return len(sample)
    if not torch.equal(mixture[:half, : sample.shape[1]], mixture[half:, : sample.shape[1]]):
        return len(sample)
    mixed = [out for out in outputs if len(out) == len(sample)]
    apart = [not torch.equal(out[:half], out[half:]) for out in mixed]
    return half if not outputs or any(apart) else len(sample)
