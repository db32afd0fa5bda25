"""Which part of a network's answers had the condition: by the arithmetic of the guidance itself.

A guided pipeline hands its scheduler a mixture of parts: u + s (c - u), three parts for InstructPix2Pix, a perturbed one for
PAG, each in one batch or in calls of their own, in an order that differs between pipelines. The weights of the parts follow
from the mixture by least squares, row by row, which `guidance_rescale` multiplies by one number. Some pipelines scale every
token to the condition's own norm instead (Qwen-Image), and some hand on the negative of what the network said (Z-Image, Lumina).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

EXACT = 1e-2
"""A mixture's relative distance from the best combination of its parts; half precision stays below."""

ALIKE = 1e-5
"""Relative distance of two answers that are one but for rounding."""

FIRST = {
    "AceStepPipeline",
    "DiTPipeline",
    "LuminaPipeline",
    "Lumina2Pipeline",
    "OmniGenPipeline",
    "StableCascadeDecoderPipeline",
    "StableCascadePriorPipeline",
    "WuerstchenDecoderPipeline",
    "WuerstchenPriorPipeline",
}
"""Pipelines whose batch starts with the condition (from their source, diffusers 0.42); in others it comes last."""

FIRST_OF_THREE = {
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "OmniGenPipeline",
}
LAST_OF_THREE = {"DreamLitePipeline"}
"""Pipelines guided by text and by an image: the part with the image alone may weigh more than the one with both."""


class Found(NamedTuple):
    """The part of a mixture that had the condition.

    Attributes:
        part: which.
        factor: what turns the network's words into those that the scheduler was handed.
    """

    part: int
    factor: float


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


def weights(mixture: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """What each part weighs in a mixture.

    Args:
        mixture: (rows, …) what the scheduler was handed.
        parts: (rows, …) what the network answered, each.

    Returns:
        (parts,) float64 weights that sum to 1, and (rows,) what the mixture is multiplied by; None where it is no combination of
        the parts.
    """
    flat = torch.stack([part.double().flatten(1) for part in parts], -1)
    target = mixture.double().flatten(1)
    if flat.shape[:2] != target.shape or not bool(torch.isfinite(flat).all() and torch.isfinite(target).all()):
        return None
    solved = _combination(target, flat)
    total = None if solved is None else solved.sum(1, keepdim=True)
    if solved is None or total is None or not bool((total.abs() > 1e-3).all()):
        return None
    # Where two parts of a row agree to rounding, their weights are any that have the right sum: other rows decide.
    apart = _apart(flat)
    shares = (solved / total)[apart]
    if not len(shares):
        return None
    middle = shares.median(0).values
    alike = _close((flat @ middle)[~apart] * total[~apart], target[~apart])
    return (middle, total[:, 0]) if alike and bool((shares - middle).abs().max() < 0.1) else None


def _apart(flat: Tensor) -> Tensor:
    """(rows,) whether the parts of a row, (rows, n, parts), are different enough for their weights to be read off."""
    spread: Tensor = torch.linalg.eigvalsh(flat.mT @ flat)
    return spread[:, 0] > ALIKE**2 * spread[:, -1]


def _close(found: Tensor, target: Tensor) -> bool:
    """Whether vectors (…, n) agree with others."""
    return bool(((found - target).norm(dim=-1) <= EXACT * target.norm(dim=-1) + 1e-12).all())


def _combination(target: Tensor, flat: Tensor) -> Tensor | None:
    """(…, parts) coefficients of vectors (…, n) in parts (…, n, parts); None where one is not spanned by them."""
    solved = torch.linalg.pinv(flat, rtol=1e-6) @ target[..., None]
    return solved[..., 0] if _close((flat @ solved)[..., 0], target) else None


def conditional(mixture: Tensor, parts: Sequence[Tensor], known: int | None = None) -> Found | None:
    """Which part had the condition; None where the arithmetic does not say.

    Guidance by more than one weighs the condition above zero and something else below. Where two parts are above zero, or none
    is below, the `known` order of the pipeline decides (see `order`).

    Args:
        mixture: (rows, …) what the scheduler was handed.
        parts: (rows, …) what the network answered, each.
        known: what `order` says.
    """
    if len(parts) > 1 and all(_same(part, parts[0]) for part in parts[1:]):
        parts = parts[:1]  # whichever had the condition
    found = weights(mixture, parts) if parts else None
    if found is None:
        return _of_equal_norms(mixture, parts) if len(parts) > 1 else None
    shares, total = found
    if len(parts) == 1:
        return Found(0, float(total.median()))
    part = _above_zero(shares, known)
    return None if part is None or not _rescaled(mixture, parts[part], total) else Found(part, _sign(total))


def unknown(mixture: Tensor, parts: Sequence[Tensor]) -> str:
    """Why `conditional` does not say which part had the condition, in words.

    Args:
        mixture: (rows, …) what the scheduler was handed.
        parts: (rows, …) what the network answered, each.
    """
    if not parts:
        return "the network gave no answer of the state's rows"
    if any(part.shape != mixture.shape for part in parts):
        return f"the network answers {tuple(parts[0].shape)} where the scheduler is handed {tuple(mixture.shape)}"
    found = weights(mixture, parts)
    if found is None:
        return (
            "what the scheduler was handed is no combination of the network's answers with one weight each (guidance that differs "
            "by frame, channel or token, or a limit)"
        )
    return (
        f"which of the network's {len(parts)} answers had the condition does not follow from their weights in this loop"
    )


def _same(part: Tensor, other: Tensor) -> bool:
    """Whether two answers are one but for rounding."""
    return part.shape == other.shape and bool((part - other).norm() <= ALIKE * other.norm())


def _above_zero(shares: Tensor, known: int | None) -> int | None:
    """The one part that is weighed above zero while another is below; else the known one."""
    above = (shares > EXACT).nonzero().flatten().tolist()
    if bool((shares < -EXACT).any()):
        return above[0] if len(above) == 1 else known if known in above else None
    return known


def _rescaled(mixture: Tensor, part: Tensor, total: Tensor) -> bool:
    """Whether a mixture is multiplied by nothing, or on the way to its conditional part's own spread (arXiv 2305.08891, eq. 16)."""
    spreads = [x.double().flatten(1).std(1) for x in (part, mixture)]
    to_part = spreads[0] / (spreads[1] / total.abs()).clamp_min(1e-12)
    least, most = to_part.clamp(max=1) * 0.9, to_part.clamp(min=1) * 1.1
    return bool(((total.abs() >= least) & (total.abs() <= most)).all())


def _of_equal_norms(mixture: Tensor, parts: Sequence[Tensor]) -> Found | None:
    """The part whose every token (…, C) has the mixture's norm, which it was scaled to; None where it is not one only."""
    if any(part.shape != mixture.shape for part in parts) or mixture.ndim < 3 or mixture.shape[-1] <= len(parts):
        return None
    solved = _combination(mixture.double(), torch.stack([part.double() for part in parts], -1))
    norms = mixture.double().norm(dim=-1)
    alike = [torch.allclose(part.double().norm(dim=-1), norms, rtol=EXACT, atol=1e-6) for part in parts]
    return Found(alike.index(True), _sign(solved.sum(-1))) if solved is not None and sum(alike) == 1 else None


def _sign(total: Tensor) -> float:
    return -1.0 if float(total.median()) < 0 else 1.0


def order(pipeline: str, parts: Sequence[tuple[int, slice, Tensor]]) -> int | None:
    """Where the condition stands in one batch, by the pipeline's source; None for calls of their own, and where it is not
    known.

    Args:
        pipeline: the class whose loop runs; see `loop_of`.
        parts: (call, rows of its batch, answer) of each.
    """
    if not pipeline or len({call for call, *_ in parts}) != 1:
        return None
    if len(parts) == 3:
        return 0 if pipeline in FIRST_OF_THREE else 2 if pipeline in LAST_OF_THREE else None
    # A perturbed batch without guidance starts with the condition; with guidance, the weights themselves tell.
    return None if len(parts) != 2 else 0 if pipeline in FIRST or "PAG" in pipeline else 1


def loop_of(pipeline: Any) -> str:
    """The class of diffusers whose own loop a pipeline runs; empty where the loop is custom, and its order unknown.

    Args:
        pipeline: any object; a subclass without a `__call__` of its own runs its parent's.
    """
    kind = next((kind for kind in type(pipeline).__mro__ if "__call__" in vars(kind)), object)
    return kind.__name__ if kind.__module__.startswith("diffusers.") else ""


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
