"""Parts of a state whose noise is read apart: Haar bands, the inside and the outside of a region, the frames of a video.

The reading of a part is the rms of the predicted noise over it. An orthonormal transform leaves white noise white, so that where
the noise is resolved every part reads 1, as the whole state does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Values = Callable[[Tensor], Tensor]
"""States (B, …) → (B, P) float64: the rms over each part."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a state.

    Attributes:
        kinds: (P,) of each: "band", "region" or "frame".
        names: (P,) of each, such as "HH1".
        values: States (B, …) → (B, P), the rms over each.
    """

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    values: Values

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, kind: str, names: Sequence[str], values: Values) -> Parts:
        """Parts of one kind.

        Args:
            kind: such as "band".
            names: one per part, P of them.
            values: gives (B, P) of states (B, …).
        """
        return cls((kind,) * len(names), tuple(names), values)

    @classmethod
    def joined(cls, several: Sequence[Parts]) -> Parts:
        """Parts of several kinds, read together."""
        kinds = tuple(kind for each in several for kind in each.kinds)
        names = tuple(name for each in several for name in each.names)
        return cls(kinds, names, lambda x: torch.cat([each.values(x) for each in several], dim=1))


def haar(x: Tensor) -> dict[str, Tensor]:
    """One level of the orthonormal Haar transform of states (…, H, W) of even sides.

    Returns:
        LL, LH, HL, HH, each (…, H/2, W/2). The first letter is of the rows, along the width; the second of the columns, along the
        height: HL holds what changes from left to right, LH what changes from top to bottom.
    """
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return {
        "LL": (a + b + c + d) / 2,
        "LH": (a + b - c - d) / 2,
        "HL": (a - b + c - d) / 2,
        "HH": (a - b - c + d) / 2,
    }


def inverse_haar(bands: Mapping[str, Tensor]) -> Tensor:
    """States (…, H, W) from the four bands of `haar`."""
    low, vertical, horizontal, diagonal = (bands[name] for name in ("LL", "LH", "HL", "HH"))
    above = low + vertical + horizontal + diagonal, low + vertical - horizontal - diagonal
    below = low - vertical + horizontal - diagonal, low - vertical - horizontal + diagonal
    rows = [torch.stack(pair, -1).flatten(-2) / 2 for pair in (above, below)]
    return torch.stack(rows, -2).flatten(-3, -2)


def haar_bands(x: Tensor) -> dict[str, Tensor]:
    """LL1, LH1, HL1, HH1 and, where half of each side is even, the four bands of LL1: LL2, LH2, HL2, HH2."""
    fine = {f"{name}1": part for name, part in haar(x).items()}
    if x.shape[-1] % 4 or x.shape[-2] % 4:
        return fine
    return {f"{name}2": part for name, part in haar(fine["LL1"]).items()} | fine


def bands(shape: Sequence[int]) -> Parts:
    """The Haar bands of states (…, H, W). Raises ValueError where they have no even height and width."""
    if len(shape) < 2 or min(shape[-2:]) < 2 or shape[-1] % 2 or shape[-2] % 2:
        raise ValueError(
            f"Haar bands need states of even height and width, these are {tuple(shape)}: leave --bands out"
        )
    names = list(haar_bands(torch.zeros(shape[-2], shape[-1])))
    return Parts.of("band", names, lambda x: torch.stack([_rms(part) for part in haar_bands(x.double()).values()], 1))


def region(inside: Tensor, shape: Sequence[int]) -> Parts:
    """The inside and the outside of a region.

    Args:
        inside: (h, w) bool, True inside; h and w are those of the states or, for latents, the same multiple of both.
        shape: of a state, (…, H, W).

    Raises:
        ValueError: for another size, or a region that is empty or everything.
    """
    mask = _fitted(inside, shape)
    if not 0 < int(mask.sum()) < mask.numel():
        raise ValueError("the mask must have white and black parts of at least one place each: draw a region")

    def values(x: Tensor) -> Tensor:
        flat = x.double().flatten(1, -3)
        where = mask.to(x.device)
        return torch.stack([_rms(flat[..., where]), _rms(flat[..., ~where])], 1)

    return Parts.of("region", ("inside", "outside"), values)


def frames(shape: Sequence[int]) -> Parts:
    """The frames of states (C, F, H, W). Raises ValueError for states that have none."""
    if len(shape) != 4:
        raise ValueError(f"states of shape {tuple(shape)} have no frames (C, F, H, W): choose another --by")
    names = [str(k) for k in range(shape[1])]
    return Parts.of("frame", names, lambda x: x.double().square().mean((1, 3, 4)).sqrt())


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _fitted(inside: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask at the size of the states: a place of a latent is inside where half of its pixels are."""
    if len(shape) < 3:
        raise ValueError(f"states of shape {tuple(shape)} have no height and width: leave --mask out")
    (height, width), (h, w) = inside.shape, shape[-2:]
    factor = height // h
    if factor < 1 or (height, width) != (factor * h, factor * w):
        raise ValueError(
            f"the mask is {height} × {width}, the states are {h} × {w}: give one of that size, or of a multiple of it for latents"
        )
    return inside.double().reshape(h, factor, w, factor).mean((1, 3)) >= 0.5
