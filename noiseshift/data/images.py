"""A set of images in memory, and its two number formats."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A set of images, or of other states that a network works on.

    Attributes:
        pixels: uint8 pictures (N, C, H, W), or float states (N, ...) in the scale that the network works on.
        labels: int64 classes (N,), counted from 0, or None where the set has none.
        names: The class folders in the order of their labels, where labels come from folders; else empty.
        about: One line that says what was read and what was assumed.
        unit: Whether floats are pictures, black at -1 and white at 1, and not in the network's own scale.
    """

    pixels: Tensor
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    about: str = ""
    unit: bool = False

    def __repr__(self) -> str:
        return f"Images({self.about or f'{len(self):,} of shape {tuple(self.pixels.shape[1:])}'})"

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> Images:
        return replace(self, pixels=self.pixels[index], labels=None if self.labels is None else self.labels[index])

    @cached_property
    def sha256(self) -> str:
        """Of the pixels and labels: what a run that was calibrated on them depends on."""
        digest = hashlib.sha256(str((self.pixels.dtype, tuple(self.pixels.shape))).encode())
        for part in (self.pixels, self.labels):
            if part is not None:
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def floats(self) -> Tensor:
        """float32 in [-1, 1], (N, C, H, W); float states as they are."""
        return to_float(self.pixels)

    def scaled(self, low: float, high: float) -> Images:
        """Pictures as states of a network with another range; states as they are.

        Args:
            low: What black is for the network.
            high: What white is for it.
        """
        if self.pixels.is_floating_point() and not self.unit:
            return self
        return replace(self, pixels=(self.floats + 1) * ((high - low) / 2) + low, unit=False)

    @property
    def pictures(self) -> Tensor:
        """uint8 pictures (N, 1 or 3, H, W), for extractors. Raises ValueError for other states."""
        if not self.pixels.is_floating_point():
            return self.pixels
        if self.pixels.ndim != 4 or self.pixels.shape[1] not in (1, 3) or float(self.pixels.abs().max()) > 1.01:
            pixels = self.pixels.ndim == 4 and self.pixels.shape[1] in (1, 3)
            raise ValueError(
                f"these are no pictures ({self.about or tuple(self.pixels.shape)}): "
                + ("give uint8, or --range, or " if pixels else "")
                + "compare the numbers themselves, with --extractor states"
            )
        return to_uint8(self.pixels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 in [-1, 1]; floats are states, and stay."""
    return pixels.float() if pixels.is_floating_point() else pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] → uint8, by the rule of DiT, SiT and EDM: clip(127.5 x + 128)."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
