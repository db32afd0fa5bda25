"""The U-Nets of EDM checkpoints (Karras et al., arXiv 2206.00364): DDPM++ and NCSN++ (Song et al., arXiv 2011.13456), and ADM
(Dhariwal & Nichol, arXiv 2105.05233). Written from the papers; names and shapes of the tensors are the released files'.

Both are called as network(x (B, C, H, W), noise (B,), label (B, classes) or None) → (B, out, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noiseshift.networks.blocks import attend

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Resample = Literal["", "up", "down"]


@dataclass(frozen=True)
class UnetConfig:
    """What builds either network; fields are named as the files name them. Unknown ones are training's.

    Attributes:
        img_resolution: Pixels per side.
        in_channels: Of a state.
        out_channels: Of the answer.
        label_dim: Length of a label, 0 for none.
        model_channels: The unit in which `channel_mult` and the like count.
        channel_mult: Width of every level, the finest first; each level has half the side of the one before.
        channel_mult_emb: Width of the embedding.
        num_blocks: Blocks at each level of the encoder; the decoder has one more.
        attn_resolutions: Sides at which blocks attend.
        embedding_type: Of the noise: "positional", or "fourier" for random frequencies (DDPM++ and NCSN++).
        channel_mult_noise: Features of the noise (DDPM++ and NCSN++).
        encoder_type: What stands beside the encoder: "standard" for nothing, "skip" or "residual" for a pyramid of the input.
        decoder_type: "skip" where the levels of the decoder add up to the answer, else "standard".
        resample_filter: Taps of the filter that halves and doubles (DDPM++ and NCSN++; ADM has (1, 1)).
    """

    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[int, ...] = (1, 1)


C = TypeVar("C", bound="DataclassInstance")


def configured(kind: type[C], values: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> C:
    """A configuration from what a file says; what the configuration lacks is left out.

    Args:
        kind: The configuration's dataclass.
        values: What the file says, by the names of the fields; lists become tuples.
        usual: What the family means where the file is silent; None for the dataclass's own defaults.
    """
    known = {field.name for field in fields(kind)}
    given: dict[str, Any] = {**(usual or {}), **{name: value for name, value in values.items() if name in known}}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


class ResampledConv(nn.Module):
    """A convolution behind an up- or downsampling by two with the taps of a separable filter.

    Args:
        channels: Of the input and of the result.
        kernel: Side of the convolution, odd; 0 only resamples.
        resample: "up", "down", or "" for neither.
        taps: Of the filter along each side, in any scale.
        fused: NCSN++'s order for its residual path: the convolution before the downsampling.
    """

    resample_filter: Tensor

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int,
        resample: Resample = "",
        taps: tuple[int, ...] = (1, 1),
        *,
        fused: bool = False,
    ):
        super().__init__()
        self.resample = resample
        self.taps = taps
        self.fused = fused
        self.reach = kernel // 2
        self.weight = nn.Parameter(torch.empty(channels[1], channels[0], kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.empty(channels[1])) if kernel else None
        row = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer(
            "resample_filter", torch.outer(row, row)[None, None] / row.sum() ** 2 if resample else None
        )

    def forward(self, x: Tensor) -> Tensor:
        side = (len(self.taps) - 1) // 2
        if self.fused:
            return self._filtered(self._convolved(x, side), 0)
        return self._convolved(self._filtered(x, side) if self.resample else x)

    def _convolved(self, x: Tensor, more: int = 0) -> Tensor:
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.reach + more)

    def _filtered(self, x: Tensor, padding: int) -> Tensor:
        taps = self.resample_filter.to(x).repeat(x.shape[1], 1, 1, 1)
        if self.resample == "up":
            return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=x.shape[1])
        return F.conv2d(x, taps, stride=2, padding=padding, groups=x.shape[1])


@dataclass(frozen=True)
class Style:
    """How a family makes its blocks.

    Attributes:
        emb: Width of the embedding.
        taps: Of the filter that halves and doubles.
        head_channels: Channels of an attention head, None for one head.
        project: Whether the skip of a block that resamples has a convolution even where channels stay.
        scales: Whether the embedding also scales, or only shifts.
        skip_scale: Factor of every sum of a change and its input.
        eps: Of the group norms.
    """

    emb: int
    taps: tuple[int, ...]
    head_channels: int | None
    project: bool
    scales: bool
    skip_scale: float
    eps: float

    def norm(self, channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(min(32, channels // 4), channels, eps=self.eps)


class Block(nn.Module):
    """A residual block.

    Args:
        channels: Of the input and of the result.
        style: Of the family.
        resample: "up" doubles H and W, "down" halves them, "" keeps them.
        attention: Whether places attend to each other at the end.
    """

    def __init__(self, channels: tuple[int, int], style: Style, resample: Resample = "", *, attention: bool = False):
        super().__init__()
        ins, outs = channels
        self.in_channels = ins
        self.style = style
        self.norm0, self.norm1 = style.norm(ins), style.norm(outs)
        self.conv0 = ResampledConv(channels, 3, resample, style.taps)
        self.affine = nn.Linear(style.emb, outs * (2 if style.scales else 1))
        self.conv1 = ResampledConv((outs, outs), 3)
        self.skip = None
        if resample or ins != outs:
            kernel = 1 if style.project or ins != outs else 0
            self.skip = ResampledConv(channels, kernel, resample, style.taps)
        self.heads = 0 if not attention else outs // style.head_channels if style.head_channels else 1
        if attention:
            self.norm2 = style.norm(outs)
            self.qkv = ResampledConv((outs, 3 * outs), 1)
            self.proj = ResampledConv((outs, outs), 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        hidden = self.conv0(F.silu(self.norm0(x)))
        affine = self.affine(emb)[:, :, None, None]
        if self.style.scales:
            scale, shift = affine.chunk(2, 1)
            hidden = self.norm1(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm1(hidden + affine)
        hidden = self.conv1(F.silu(hidden))
        x = (hidden + (x if self.skip is None else self.skip(x))) * self.style.skip_scale
        return (self._attended(x) + x) * self.style.skip_scale if self.heads else x

    def _attended(self, x: Tensor) -> Tensor:
        rows, channels, *side = x.shape
        split = self.qkv(self.norm2(x)).reshape(rows, self.heads, channels // self.heads, 3, -1)
        query, key, value = split.transpose(2, 4).unbind(3)  # (B, heads, pixels, channels a head)
        found = attend(query, key, value)
        # Channels last, which one head leaves, GroupNorm has no forward-mode derivative.
        return self.proj(found.transpose(2, 3).contiguous().reshape(rows, channels, *side))


class Unet(nn.Module):
    """The trunk of both: encoder and decoder stages, by the names of the files.

    Args:
        config: Of the network.
        style: Of the family.
    """

    def __init__(self, config: UnetConfig, style: Style):
        super().__init__()
        self.config = config
        self.style = style
        self.widths = [config.model_channels * m for m in config.channel_mult]
        self.sides = [config.img_resolution >> level for level in range(len(self.widths))]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.first = self.widths[0]  # channels of the first convolution
        self.dec_attends: Literal["every", "last"] = "every"

    def block(self, channels: tuple[int, int], resample: Resample = "", *, attention: bool = False) -> Block:
        return Block(channels, self.style, resample, attention=attention)

    def build_encoder(self) -> list[int]:
        """Fill `enc`; returns the channels of what it hands to the decoder, in order."""
        now = self.config.in_channels
        handed = []
        for level, (side, width) in enumerate(zip(self.sides, self.widths, strict=True)):
            if level == 0:
                self.enc[f"{side}x{side}_conv"] = ResampledConv((now, self.first), 3)
                now = self.first
            else:
                self.enc[f"{side}x{side}_down"] = self.block((now, now), "down")
                self.after_down(side, now)
            handed.append(now)
            for index in range(self.config.num_blocks):
                attention = side in self.config.attn_resolutions
                self.enc[f"{side}x{side}_block{index}"] = self.block((now, width), attention=attention)
                now = width
                handed.append(now)
        return handed

    def build_decoder(self, handed: list[int]) -> int:
        """Fill `dec`; returns the channels that it ends with."""
        now = self.widths[-1]
        last = len(self.widths) - 1
        for level in range(last, -1, -1):
            side = self.sides[level]
            width = self.widths[level]
            if level == last:
                self.dec[f"{side}x{side}_in0"] = self.block((now, now), attention=True)
                self.dec[f"{side}x{side}_in1"] = self.block((now, now))
            else:
                self.dec[f"{side}x{side}_up"] = self.block((now, now), "up")
            for index in range(self.config.num_blocks + 1):
                attends = side in self.config.attn_resolutions
                if self.dec_attends == "last":
                    attends = attends and index == self.config.num_blocks
                self.dec[f"{side}x{side}_block{index}"] = self.block((now + handed.pop(), width), attention=attends)
                now = width
            self.after_level(level, width)
        return now

    def encoded(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """What the encoder hands to the decoder, the last of it the smallest.

        Args:
            x: (B, in_channels, H, W).
            emb: (B, width of the embedding).
        """
        handed: list[Tensor] = []
        pyramid = x
        for level, side in enumerate(self.sides):
            if level == 0:
                x = self.enc[f"{side}x{side}_conv"](x)
            else:
                x, pyramid = self.entered(side, self.enc[f"{side}x{side}_down"](x, emb), pyramid)
            handed.append(x)
            for index in range(self.config.num_blocks):
                x = self.enc[f"{side}x{side}_block{index}"](x, emb)
                handed.append(x)
        return handed

    def decoded(self, handed: list[Tensor], emb: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each level and what the decoder leaves it with, from the smallest side to the largest.

        Args:
            handed: What the encoder handed over; emptied on the way.
            emb: (B, width of the embedding).
        """
        x = handed[-1]
        for level in reversed(range(len(self.sides))):
            side = self.sides[level]
            for name in ("in0", "in1") if level == len(self.sides) - 1 else ("up",):
                x = self.dec[f"{side}x{side}_{name}"](x, emb)
            for index in range(self.config.num_blocks + 1):
                x = self.dec[f"{side}x{side}_block{index}"](torch.cat([x, handed.pop()], 1), emb)
            yield level, x

    def entered(self, side: int, x: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """What a family makes of the state behind a downsampling, and of the pyramid that it keeps beside the encoder.

        Args:
            side: After the downsampling, in pixels.
            x: (B, C, side, side).
            pyramid: Of the side before it.
        """
        return x, pyramid

    def after_down(self, side: int, channels: int) -> None:
        """What a family adds to the encoder behind a downsampling.

        Args:
            side: After it, in pixels.
            channels: That it leaves.
        """

    def after_level(self, level: int, channels: int) -> None:
        """What a family adds to the decoder behind a level.

        Args:
            level: 0 for the largest side.
            channels: That the level leaves.
        """


class SongUnet(Unet):
    """DDPM++ (positional embedding) and NCSN++ (Fourier embedding, a residual pyramid beside the encoder)."""

    def __init__(self, config: UnetConfig):
        emb = config.model_channels * config.channel_mult_emb
        style = Style(emb, config.resample_filter, None, True, False, math.sqrt(0.5), 1e-6)
        super().__init__(config, style)
        noise = config.model_channels * config.channel_mult_noise
        self.map_noise = Fourier(noise) if config.embedding_type == "fourier" else Positional(noise, endpoint=True)
        self.map_label = nn.Linear(config.label_dim, noise) if config.label_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(noise, emb), nn.Linear(emb, emb)
        self.dec_attends = "last"
        self.pyramid = config.in_channels
        self.first = config.model_channels
        self.build_decoder(self.build_encoder())

    def after_down(self, side: int, channels: int) -> None:
        taps = self.config.resample_filter
        name = f"{side}x{side}_aux"
        if self.config.encoder_type == "skip":
            self.enc[f"{name}_down"] = ResampledConv((self.pyramid, self.pyramid), 0, "down", taps)
            self.enc[f"{name}_skip"] = ResampledConv((self.pyramid, channels), 1)
        elif self.config.encoder_type == "residual":
            self.enc[f"{name}_residual"] = ResampledConv((self.pyramid, channels), 3, "down", taps, fused=True)
            self.pyramid = channels

    def after_level(self, level: int, channels: int) -> None:
        side = self.sides[level]
        outs = self.config.out_channels
        skips = self.config.decoder_type == "skip"
        if skips and level < len(self.sides) - 1:
            self.dec[f"{side}x{side}_aux_up"] = ResampledConv((outs, outs), 0, "up", self.config.resample_filter)
        if skips or level == 0:
            self.dec[f"{side}x{side}_aux_norm"] = self.style.norm(channels)
            self.dec[f"{side}x{side}_aux_conv"] = ResampledConv((channels, outs), 3)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        emb = self.map_noise(noise).reshape(len(noise), 2, -1).flip(1).reshape(len(noise), -1)  # sines first
        if self.map_label is not None and label is not None:
            emb = emb + self.map_label(label * math.sqrt(self.config.label_dim))
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        total = torch.zeros(())  # what the levels add up to; without skips the largest alone speaks
        for level, state in self.decoded(self.encoded(x, emb), emb):
            side = self.sides[level]
            if f"{side}x{side}_aux_up" in self.dec:
                total = self.dec[f"{side}x{side}_aux_up"](total)
            if f"{side}x{side}_aux_conv" in self.dec:
                normed = self.dec[f"{side}x{side}_aux_norm"](state)
                total = total + self.dec[f"{side}x{side}_aux_conv"](F.silu(normed))
        return total

    def entered(self, side: int, x: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        name = f"{side}x{side}_aux"
        if self.config.encoder_type == "skip":
            pyramid = self.enc[f"{name}_down"](pyramid)
            return x + self.enc[f"{name}_skip"](pyramid), pyramid
        if self.config.encoder_type == "residual":
            x = (x + self.enc[f"{name}_residual"](pyramid)) * math.sqrt(0.5)
            return x, x
        return x, pyramid


class DhariwalUnet(Unet):
    """ADM's network as EDM trains it: the embedding scales and shifts, attention heads of 64 channels."""

    def __init__(self, config: UnetConfig):
        emb = config.model_channels * config.channel_mult_emb
        super().__init__(config, Style(emb, (1, 1), 64, False, True, 1.0, 1e-5))
        self.map_noise = Positional(config.model_channels, endpoint=False)
        self.map_layer0, self.map_layer1 = nn.Linear(config.model_channels, emb), nn.Linear(emb, emb)
        self.map_label = nn.Linear(config.label_dim, emb, bias=False) if config.label_dim else None
        now = self.build_decoder(self.build_encoder())
        self.out_norm = self.style.norm(now)
        self.out_conv = ResampledConv((now, config.out_channels), 3)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        emb = self.map_layer1(F.silu(self.map_layer0(self.map_noise(noise))))
        if self.map_label is not None and label is not None:
            emb = emb + self.map_label(label)
        emb = F.silu(emb)
        *_, (_, x) = self.decoded(self.encoded(x, emb), emb)
        return self.out_conv(F.silu(self.out_norm(x)))


class Positional(nn.Module):
    """Cosines, then sines, at geometric frequencies from 1 to 1e-4.

    Args:
        channels: Of the result, even: half as many frequencies.
        endpoint: Whether the last frequency is 1e-4 itself, or the next one would be.
    """

    def __init__(self, channels: int, *, endpoint: bool):
        super().__init__()
        self.pairs = channels // 2
        self.gaps = channels // 2 - endpoint

    def forward(self, noise: Tensor) -> Tensor:
        places = torch.arange(self.pairs, dtype=torch.float32, device=noise.device) / self.gaps
        angle = torch.outer(noise, (1e-4**places).to(noise.dtype))
        return torch.cat([angle.cos(), angle.sin()], 1)


class Fourier(nn.Module):
    """Cosines, then sines, of random frequencies, which are in the file."""

    freqs: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels // 2))

    def forward(self, noise: Tensor) -> Tensor:
        angle = torch.outer(noise, (2 * math.pi * self.freqs).to(noise.dtype))
        return torch.cat([angle.cos(), angle.sin()], 1)
