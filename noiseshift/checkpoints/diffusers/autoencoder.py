"""Autoencoders of latent models: pictures in [-1, 1] to the states that the network works on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseshift.calling import evaluating
from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.diffusers.parts import config_of, load_part
from noiseshift.data import Images
from noiseshift.diffusion.memory import Halving, joined

KINDS = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
AT_ONCE = 4 * 512 * 512
"""Pixels of one chunk."""


class Autoencoder:
    """A diffusers autoencoder, always in float32: half precision overflows in some of them.

    Its latents z and the network's states x are related by x = (z - center) / spread, from the configuration's
    scaling_factor and shift_factor, or latents_mean and latents_std. `factor` is pixels a latent on each side; `range` is
    what black and white are to the network.
    """

    def __init__(self, network: Any):
        config = network.config
        self.network = network.float().eval().requires_grad_(False)
        self.kind = type(network).__name__
        self.scale = float(config.get("scaling_factor") or 1.0)
        mean = config.get("latents_mean")
        std = config.get("latents_std")
        known = mean is not None and std is not None
        self.center = torch.tensor(mean if known else [config.get("shift_factor") or 0.0]).float()[:, None, None]
        self.spread = torch.tensor(std if known else [1.0]).float()[:, None, None] / self.scale
        self.channels = int(config["latent_channels"])
        self.factor = 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)
        self.range = (-1.0, 1.0)
        self.halving = Halving("the autoencoder")

    def standardise(
        self, center: Sequence[float], spread: Sequence[float], range: Sequence[float] = (-1.0, 1.0)
    ) -> None:
        """Let states be (z - center) / spread, whatever the configuration says.

        Args:
            center: A number per channel of the latents z.
            spread: A number above 0 per channel.
            range: What black and white are for the autoencoder.

        Raises:
            CheckpointError: `center` has another number of channels than the autoencoder.
        """
        if len(center) != self.channels:
            raise CheckpointError(f"the card standardises {len(center)} channels, the autoencoder has {self.channels}")
        self.center, self.spread = (torch.tensor(row).float()[:, None, None] for row in (center, spread))
        self.range = (range[0], range[1])

    @classmethod
    def load(cls, path: str | Path) -> Autoencoder:
        """From an autoencoder's folder, or a pipeline's that has one. Raises CheckpointError for anything else."""
        path = Path(path)
        inner = next((path / name for name in ("vae", "vqvae") if (path / name / "config.json").exists()), path)
        kind = config_of(inner).get("_class_name")
        if kind not in KINDS:
            raise CheckpointError(
                f"{inner} holds a {kind}, not one of {', '.join(KINDS)}: give an autoencoder's folder"
            )
        return cls(load_part(inner, str(kind)))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (N, 1 or 3, H, W) in [-1, 1] → states: the posterior's mean, which adds no noise of its own."""
        return torch.cat(
            [joined(self.halving(self._encoded, part)) for part in images.split(self._rows(images.shape[2:]))]
        )

    def states(self, images: Images, shape: Sequence[int]) -> Images:
        """A set of pictures as states, a chunk at a time.

        Args:
            images: uint8 pictures (N, 1 or 3, H, W).
            shape: (C, h, w) of a state; H and W are `factor` times h and w.

        Raises:
            ValueError: The pictures have another size.
        """
        size = tuple(images.pixels.shape[2:])
        wanted = tuple(self.factor * n for n in shape[1:])
        if size != wanted:
            raise ValueError(
                f"the pictures are {size[0]}×{size[1]}, this checkpoint's {wanted[0]}×{wanted[1]}: resize them, or give "
                "--size where the network takes several"
            )
        rows = self._rows(torch.Size(wanted))
        states = torch.cat([self.encode(images[i : i + rows].floats) for i in range(0, len(images), rows)])
        return replace(images, pixels=states)

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        """States (N, C, h, w) → pictures in [-1, 1], about."""
        side = torch.Size(self.factor * n for n in states.shape[2:])
        return torch.cat([joined(self.halving(self._decoded, part)) for part in states.split(self._rows(side))])

    def _rows(self, size: torch.Size) -> int:
        return max(1, AT_ONCE // size.numel())

    def _encoded(self, images: Tensor) -> Tensor:
        network = self.network.to(images.device)
        black, white = self.range
        pictures = black + (white - black) * (images.float() + 1) / 2 if self.range != (-1, 1) else images.float()
        # A grey picture is a coloured one whose channels agree.
        with evaluating("the autoencoder"):
            found = network.encode(pictures.expand(-1, int(network.config["in_channels"]), -1, -1))
        latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return (latents - self.center.to(latents)) / self.spread.to(latents)

    def _decoded(self, states: Tensor) -> Tensor:
        states = states.float()
        latents = states * self.spread.to(states) + self.center.to(states)
        with evaluating("the autoencoder"):
            pictures: Tensor = self.network.to(states.device).decode(latents).sample
        black, white = self.range
        return 2 * (pictures - black) / (white - black) - 1 if self.range != (-1, 1) else pictures
