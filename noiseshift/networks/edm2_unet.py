"""The magnitude-preserving U-Net of EDM2 checkpoints (Karras et al., arXiv 2312.02696, "config G"). Written from the paper;
names and shapes of the tensors are the released files'.

Every operation keeps the expected magnitude of what goes through it: weights are normalised where they are used, sums and
concatenations are weighted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noiseshift.networks.blocks import attend

Resample = Literal["keep", "up", "down"]


@dataclass(frozen=True)
class Edm2Config:
    """What builds the network; fields are named as the files name them. Unknown ones are training's.

    Attributes:
        img_resolution: Pixels (or latents) per side.
        img_channels: Channels of a state; a channel of ones is added to the input.
        label_dim: Number of classes, 0 for none.
        model_channels: The unit in which `channel_mult` and the like count.
        channel_mult: Width of every level, the finest first; each level has half the side of the one before.
        channel_mult_noise: Features of the noise; None for the width of the first level.
        channel_mult_emb: Width of the embedding; None for the largest width of a level.
        num_blocks: Blocks at each level of the encoder; the decoder has one more.
        attn_resolutions: Sides at which blocks attend.
        label_balance: Share of the class beside the noise in the embedding.
        concat_balance: Share of what the encoder hands over beside the decoder's own state.
        resample_filter: Taps of the filter that halves and doubles.
        channels_per_head: Of attention.
        res_balance: Share of a block's change beside its input.
        attn_balance: Share of attention beside its input.
        clip_act: Largest magnitude that leaves a block, None for no limit.
    """

    img_resolution: int
    img_channels: int
    label_dim: int = 0
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    resample_filter: tuple[int, ...] = (1, 1)
    channels_per_head: int = 64
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256


def normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x over its root mean square, guarded by 1e-4.

    Args:
        x: Of any shape.
        dims: Axes that the mean is over.
    """
    size = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    kept = math.sqrt(size.numel() / x.numel())
    return x / (1e-4 + kept * size).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU over its root mean square on unit noise (eq. 81)."""
    return F.silu(x) / 0.596


def summed(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Two states in a weighted sum, at the magnitude of one (eq. 88).

    Args:
        a: Weighs 1 - share.
        b: Weighs share; of the same shape.
        share: From 0 to 1.
    """
    return torch.lerp(a, b, share) / math.hypot(1 - share, share)


def joined(a: Tensor, b: Tensor, share: float) -> Tensor:
    """a beside b along the channels, each contributing its share whatever their widths (eq. 103).

    Args:
        a: (B, C, …), contributes 1 - share.
        b: (B, any C, …), contributes share.
        share: From 0 to 1.
    """
    total = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - share) ** 2 + share**2))
    return torch.cat(
        [a * (total / math.sqrt(a.shape[1]) * (1 - share)), b * (total / math.sqrt(b.shape[1]) * share)], 1
    )


class Weighted(nn.Module):
    """A convolution or a linear map without bias, whose weights are normalised where they are used (eq. 47).

    Args:
        ins: Channels that it takes.
        outs: Channels that it gives.
        kernel: Side of the filter, odd; 0 for a linear map.
    """

    def __init__(self, ins: int, outs: int, kernel: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outs, ins, *[kernel, kernel][: 2 * bool(kernel)]))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        each = tuple(range(1, self.weight.ndim))
        weight = normalised(self.weight.float(), each) * (gain / math.sqrt(self.weight[0].numel()))
        weight = weight.to(x.dtype)
        return x @ weight.T if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class FourierFeatures(nn.Module):
    """Cosines of random frequencies and phases, which are in the file (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels))
        self.register_buffer("phases", torch.empty(channels))

    def forward(self, noise: Tensor) -> Tensor:
        angle = torch.outer(noise.float(), self.freqs.float()) + self.phases.float()
        return (angle.cos() * math.sqrt(2)).to(noise.dtype)


class Edm2Block(nn.Module):
    """A residual block of the encoder or the decoder.

    Args:
        channels: Of the input and of the result.
        emb: Width of the embedding.
        config: Of the network.
        flavour: "enc" normalises pixels first, "dec" does not.
        resample: Whether H and W are kept, doubled or halved first.
        attention: Whether places attend to each other at the end.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        emb: int,
        config: Edm2Config,
        flavour: Literal["enc", "dec"],
        resample: Resample = "keep",
        *,
        attention: bool = False,
    ):
        super().__init__()
        ins, outs = channels
        self.config = config
        self.flavour = flavour
        self.resample = resample
        self.emb_gain = nn.Parameter(torch.empty(()))
        self.conv_res0 = Weighted(outs if flavour == "enc" else ins, outs, 3)
        self.emb_linear = Weighted(emb, outs)
        self.conv_res1 = Weighted(outs, outs, 3)
        self.conv_skip = None if ins == outs else Weighted(ins, outs, 1)
        self.heads = outs // config.channels_per_head if attention else 0
        if self.heads:
            self.attn_qkv = Weighted(outs, 3 * outs, 1)
            self.attn_proj = Weighted(outs, outs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resampled(x, self.config.resample_filter, self.resample)
        if self.flavour == "enc":
            x = x if self.conv_skip is None else self.conv_skip(x)
            x = normalised(x, (1,))
        gain = self.emb_linear(emb, self.emb_gain) + 1
        hidden = self.conv_res1(silu(self.conv_res0(silu(x)) * gain[:, :, None, None]))
        if self.flavour == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = summed(x, hidden, self.config.res_balance)
        if self.heads:
            x = summed(x, self._attended(x), self.config.attn_balance)
        limit = self.config.clip_act
        return x if limit is None else x.clamp(-limit, limit)

    def _attended(self, x: Tensor) -> Tensor:
        rows, channels, *side = x.shape
        split = self.attn_qkv(x).reshape(rows, self.heads, channels // self.heads, 3, -1)
        query, key, value = normalised(split, (2,)).transpose(2, 4).unbind(3)
        found = attend(query, key, value)
        return self.attn_proj(found.transpose(2, 3).reshape(rows, channels, *side))


def resampled(x: Tensor, taps: tuple[int, ...], mode: Resample) -> Tensor:
    """Half or twice the size by a separable filter that keeps a constant what it is.

    Args:
        x: (B, C, H, W).
        taps: Of the filter along each side, in any scale.
        mode: "keep" gives x itself.
    """
    if mode == "keep":
        return x
    row = torch.tensor(taps, dtype=torch.float32)
    weight = (torch.outer(row, row) / row.sum() ** 2).to(x).expand(x.shape[1], 1, -1, -1)
    padding = (len(taps) - 1) // 2
    if mode == "up":
        return F.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=x.shape[1])
    return F.conv2d(x, weight, stride=2, padding=padding, groups=x.shape[1])


class Edm2Unet(nn.Module):
    """network(x (B, C, H, W), noise (B,), label (B, classes) or None) → (B, C, H, W)."""

    def __init__(self, config: Edm2Config):
        super().__init__()
        self.config = config
        widths = [config.model_channels * m for m in config.channel_mult]
        self.sides = [config.img_resolution >> level for level in range(len(widths))]
        noise = widths[0] if config.channel_mult_noise is None else config.model_channels * config.channel_mult_noise
        emb = max(widths) if config.channel_mult_emb is None else config.model_channels * config.channel_mult_emb
        self.out_gain = nn.Parameter(torch.empty(()))
        self.emb_fourier = FourierFeatures(noise)
        self.emb_noise = Weighted(noise, emb)
        self.emb_label = Weighted(config.label_dim, emb) if config.label_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._build_decoder(widths, emb, self._build_encoder(widths, emb))
        self.out_conv = Weighted(widths[0], config.img_channels, 3)

    def _build_encoder(self, widths: list[int], emb: int) -> list[int]:
        config = self.config
        now = self.config.img_channels + 1
        handed = []
        for level, width in enumerate(widths):
            side = self.sides[level]
            if level == 0:
                self.enc[f"{side}x{side}_conv"] = Weighted(now, width, 3)
                now = width
            else:
                self.enc[f"{side}x{side}_down"] = Edm2Block((now, now), emb, config, "enc", "down")
            handed.append(now)
            for index in range(config.num_blocks):
                attention = side in config.attn_resolutions
                self.enc[f"{side}x{side}_block{index}"] = Edm2Block(
                    (now, width), emb, config, "enc", attention=attention
                )
                now = width
                handed.append(now)
        return handed

    def _build_decoder(self, widths: list[int], emb: int, handed: list[int]) -> None:
        config = self.config
        now = widths[-1]
        last = len(widths) - 1
        for level in range(last, -1, -1):
            side = self.sides[level]
            width = widths[level]
            if level == last:
                self.dec[f"{side}x{side}_in0"] = Edm2Block((now, now), emb, config, "dec", attention=True)
                self.dec[f"{side}x{side}_in1"] = Edm2Block((now, now), emb, config, "dec")
            else:
                self.dec[f"{side}x{side}_up"] = Edm2Block((now, now), emb, config, "dec", "up")
            for index in range(config.num_blocks + 1):
                attention = side in config.attn_resolutions
                ins = now + handed.pop()
                self.dec[f"{side}x{side}_block{index}"] = Edm2Block(
                    (ins, width), emb, config, "dec", attention=attention
                )
                now = width

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            label = noise.new_zeros(len(noise), self.config.label_dim) if label is None else label
            emb = summed(emb, self.emb_label(label * math.sqrt(self.config.label_dim)), self.config.label_balance)
        emb = silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)  # what biases would have learned
        return self.out_conv(self._decoded(self._encoded(x, emb), emb), self.out_gain)

    def _encoded(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """What the encoder hands to the decoder, the last of it the smallest."""
        handed: list[Tensor] = []
        for level, side in enumerate(self.sides):
            x = self.enc[f"{side}x{side}_down"](x, emb) if level else self.enc[f"{side}x{side}_conv"](x)
            handed.append(x)
            for index in range(self.config.num_blocks):
                x = self.enc[f"{side}x{side}_block{index}"](x, emb)
                handed.append(x)
        return handed

    def _decoded(self, handed: list[Tensor], emb: Tensor) -> Tensor:
        x = handed[-1]
        for side in reversed(self.sides):
            for name in ("in0", "in1") if side == self.sides[-1] else ("up",):
                x = self.dec[f"{side}x{side}_{name}"](x, emb)
            for index in range(self.config.num_blocks + 1):
                x = joined(x, handed.pop(), self.config.concat_balance)
                x = self.dec[f"{side}x{side}_block{index}"](x, emb)
        return x
