"""Whether a training fits into memory, seen before its first step."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from noiseshift.data import Images
from noiseshift.diffusion.memory import require_memory
from noiseshift.networks.shapes import shapes_only
from noiseshift.networks.transformer import Transformer, TransformerConfig

COPIES = 4
"""Numbers a parameter: the weights, their average, their gradient and at least one moment."""

STATES = 4
"""Copies of a batch: the images, the noise, the states, the target."""

ACTIVATIONS = 16
"""Numbers that a block keeps for its gradient, a token and a channel, at least."""


def require_room(config: TransformerConfig, images: Images, batch: int, device: str | torch.device) -> None:
    """Raise ValueError, in a line that says what to make smaller, where a training cannot fit.

    On an accelerator the activations are not counted: there a batch that does not fit is taken in parts.

    Args:
        config: the network's sizes.
        images: what is trained on.
        batch: images per step.
        device: where it is trained.
    """
    one, two = (_parameters(replace(config, depth=depth)) for depth in (1, 2))
    parameters = one + (config.depth - 1) * (two - one)  # a thousand blocks take seconds to make
    what = f"training {parameters:,} parameters"
    require_memory(4 * COPIES * parameters, what, "take a smaller --width or --depth, or fewer classes", device)
    require_batch(images, batch)
    if torch.device(device).type == "cpu":
        row = ACTIVATIONS * (config.size // config.patch) ** 2 * config.width * config.depth
        require_memory(4 * row * batch, f"a step of {batch:,} images", "take a smaller --batch")


def _parameters(config: TransformerConfig) -> int:
    with shapes_only():
        return sum(each.numel() for each in Transformer(config).parameters())


def require_batch(images: Images, batch: int) -> None:
    """Raise ValueError where a batch of these images alone does not fit.

    Args:
        images: what is trained on.
        batch: images per step.
    """
    size = 4 * STATES * batch * math.prod(images.pixels.shape[1:])
    require_memory(size, f"a batch of {batch:,} images", "take a smaller --batch")
