"""The UNets of denoising-diffusion-pytorch, of pictures with or without classes and of signals, under their state-dict keys.

Residual blocks and linear attention at every resolution, full attention at the coarsest (Ho et al., arXiv 2006.11239;
Shen et al., arXiv 1812.01243). The network knows nothing of schedules: it is handed the step that it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseshift.networks.blocks import attend

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
"""By the spatial axes of a state: signals, pictures."""

GROUPS = 8
"""Groups of the residual blocks' normalisation in versions before 2.0, which no tensor shows."""


@dataclass(frozen=True)
class Former:
    """What versions before 1.8 did otherwise, which no tensor shows.

    Attributes:
        standardised: weights of residual blocks are standardised (arXiv 1903.10520), before 1.7.2.
        clamped: their variance is at least 1e-5, not 1e-5 more, in 1.7.1.
        centred: attention is normalised by mean and variance, before 1.7.0.
        averaged: values of linear attention are divided by the number of places.
    """

    standardised: bool = False
    clamped: bool = False
    centred: bool = False
    averaged: bool = False


CURRENT = Former()


@dataclass(frozen=True)
class AttentionConfig:
    """Attention at one resolution.

    Attributes:
        inner: Channels of all heads together.
        heads: Divide `inner`.
        memory: Learned keys and values beside those of the places, 0 for none.
        full: Every place attends to every place; else attention is linear in their number.
        former: What an old version did otherwise.
        axes: Spatial axes of a state.
    """

    inner: int
    heads: int
    memory: int
    full: bool
    former: Former = CURRENT
    axes: int = 2


@dataclass(frozen=True)
class UnetConfig:
    """Shape of the network.

    Attributes:
        channels: Of a state.
        out_channels: Twice `channels` where a variance is learned.
        width: A quarter of the time embedding's length, and the number of the time's features where they are fixed.
        widths: Channels after the first convolution and after every resolution.
        attention: At every resolution, then in the middle.
        classes: Without the null class; 0 for an unconditional network.
        self_condition: Whether it takes its own last answer beside the state.
        fourier: Learned frequencies of the time, 0 where they are fixed.
        grouped: Whether residual blocks normalise groups of channels, as before version 2.0.
        former: What was otherwise before 1.8.
        axes: Spatial axes of a state: 2 of pictures, 1 of signals.
    """

    channels: int
    out_channels: int
    width: int
    widths: tuple[int, ...]
    attention: tuple[AttentionConfig, ...]
    classes: int = 0
    self_condition: bool = False
    fourier: int = 0
    grouped: bool = False
    former: Former = CURRENT
    axes: int = 2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ChannelNorm(nn.Module):
    """A norm over channels, with a gain each.

    Args:
        channels: Of the input.
        axes: Spatial axes of it.
    """

    def __init__(self, channels: int, axes: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, *[1] * axes))


class RMSNorm(ChannelNorm):
    """By their root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5


class CentredNorm(ChannelNorm):
    """By their mean and variance."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.g


def _standardised(weight: Tensor, clamped: bool) -> Tensor:
    """Weights of a convolution with mean 0 and variance 1 (arXiv 1903.10520)."""
    variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.ndim)), unbiased=False, keepdim=True)
    return (weight - mean) * (variance.clamp(min=1e-5) if clamped else variance + 1e-5).rsqrt()


class Standardised1d(nn.Conv1d):
    clamped = False

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, _standardised(self.weight, self.clamped), self.bias, padding=1)


class Standardised2d(nn.Conv2d):
    clamped = False

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _standardised(self.weight, self.clamped), self.bias, padding=1)


class Clamped1d(Standardised1d):
    clamped = True


class Clamped2d(Standardised2d):
    clamped = True


def _projection(config: UnetConfig) -> type[nn.Conv1d] | type[nn.Conv2d]:
    """The convolution of a residual block."""
    if not config.former.standardised:
        return CONVOLUTIONS[config.axes]
    if config.former.clamped:
        return Clamped1d if config.axes == 1 else Clamped2d
    return Standardised1d if config.axes == 1 else Standardised2d


class Sinusoids(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.frequencies = width // 2

    def forward(self, t: Tensor) -> Tensor:
        # Unlike the transformers': sines first, and the last frequency is 1 / 10,000 itself.
        omega = torch.exp(-math.log(10_000) * torch.arange(self.frequencies, device=t.device) / (self.frequencies - 1))
        phase = t.float()[:, None] * omega
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Fourier(nn.Module):
    """The time itself, then sines and cosines of it at learned or random frequencies."""

    def __init__(self, frequencies: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(frequencies))

    def forward(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * t[:, None] * self.weights
        return torch.cat([t[:, None], phase.sin(), phase.cos()], dim=-1)


class Half(nn.Module):
    """A convolution, its normalisation, and what the condition makes of it.

    Args:
        channels: Of the input.
        out: Channels of the result.
        config: Of the network.
    """

    def __init__(self, channels: int, out: int, config: UnetConfig):
        super().__init__()
        self.proj = _projection(config)(channels, out, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, out) if config.grouped else RMSNorm(out, config.axes)

    def forward(self, x: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
        return F.silu(self.norm(self.proj(x)) * (scale + 1) + shift)


class Residual(nn.Module):
    """Two halves, of which the first is scaled and shifted by the embedding.

    Args:
        channels: Of the input.
        out: Channels of the result.
        config: Of the network.
    """

    def __init__(self, channels: int, out: int, config: UnetConfig):
        super().__init__()
        embedding = 4 * config.width * (2 if config.classes else 1)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        self.block1, self.block2 = Half(channels, out, config), Half(out, out, config)
        self.res_conv = nn.Identity() if channels == out else CONVOLUTIONS[config.axes](channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.mlp(embedding).unflatten(1, (-1, *[1] * (x.ndim - 2))).chunk(2, dim=1)
        return self.block2(self.block1(x, scale, shift)) + self.res_conv(x)


class Attention(nn.Module):
    """Places attend to each other and to learned keys, whose values are learned too.

    Args:
        channels: Of the input and the result.
        config: Of this attention.
    """

    def __init__(self, channels: int, config: AttentionConfig):
        super().__init__()
        self.heads = config.heads
        self.memory = config.memory
        self.former = config.former
        self.axes = config.axes
        self.norm = self._norm(channels)
        if config.memory:
            self.mem_kv = nn.Parameter(torch.randn(self._memory(config.heads, config.inner // config.heads)))
        self.to_qkv = CONVOLUTIONS[config.axes](channels, 3 * config.inner, 1, bias=False)
        self.to_out = self._out(config.inner, channels)

    def _norm(self, channels: int) -> nn.Module:
        return (CentredNorm if self.former.centred else RMSNorm)(channels, self.axes)

    def _memory(self, heads: int, width: int) -> tuple[int, ...]:
        return 2, heads, self.memory, width

    def _out(self, inner: int, channels: int) -> nn.Module:
        return CONVOLUTIONS[self.axes](inner, channels, 1)

    def _learned(self) -> Tensor:
        """Keys and values, (2, heads, memory, width)."""
        return self.mem_kv

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        if self.memory:
            keys, values = (part.expand(len(x), -1, -1, -1) for part in self._learned())
            k, v = torch.cat([keys, k], dim=-2), torch.cat([values, v], dim=-2)
        h = self._mix(q, k, v).transpose(-1, -2).flatten(1, 2)
        return x + self.to_out(h.unflatten(-1, x.shape[2:]))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v)


class LinearAttention(Attention):
    """Attention in time linear in the number of places (arXiv 1812.01243)."""

    def _memory(self, heads: int, width: int) -> tuple[int, ...]:
        return 2, heads, width, self.memory

    def _out(self, inner: int, channels: int) -> nn.Module:
        return nn.Sequential(super()._out(inner, channels), self._norm(channels))

    def _learned(self) -> Tensor:
        return self.mem_kv.transpose(-1, -2)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v = v / v.shape[-2] if self.former.averaged else v
        context = k.softmax(dim=-2).transpose(-1, -2) @ v
        return (q.softmax(dim=-1) * q.shape[-1] ** -0.5) @ context


class Down(nn.ModuleList):
    """Two residual blocks, attention, and the step to a coarser resolution; what `Up` joins is appended to `kept`."""

    def forward(self, x: Tensor, embedding: Tensor, kept: list[Tensor]) -> Tensor:
        block1, block2, attention, halve = self
        kept.append(x := block1(x, embedding))
        kept.append(x := attention(block2(x, embedding)))
        return halve(x)


class Up(nn.ModuleList):
    """The same on the way back; what `Down` kept is taken off `kept`."""

    def forward(self, x: Tensor, embedding: Tensor, kept: list[Tensor]) -> Tensor:
        block1, block2, attention, double = self
        x = block1(torch.cat([x, kept.pop()], dim=1), embedding)
        return double(attention(block2(torch.cat([x, kept.pop()], dim=1), embedding)))


class Unet(nn.Module):
    """`forward(x, t, label, known)`: x (B, C, H, W), or (B, C, L) of signals, sides divisible by 2 ** (resolutions - 1);
    t (B,); label (B,) integers, `classes` is the null class. A network that takes its own last answer (self-condition)
    is given zeros, as in its first step. Returns (B, out_channels, …)."""

    def __init__(self, config: UnetConfig):
        super().__init__()
        self.config = config
        width = config.width
        widths = config.widths
        conv = CONVOLUTIONS[config.axes]
        self.init_conv = conv(config.channels * (1 + config.self_condition), widths[0], 7, padding=3)
        time = Fourier(config.fourier) if config.fourier else Sinusoids(width)
        features = 2 * config.fourier + 1 if config.fourier else width
        self.time_mlp = nn.Sequential(time, nn.Linear(features, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
        if config.classes:
            self.classes_emb = nn.Embedding(config.classes, width)
            self.null_classes_emb = nn.Parameter(torch.randn(width))
            self.classes_mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        *attention, middle = config.attention
        levels = list(zip(widths[:-1], widths[1:], attention, strict=True))
        for i, (fine, coarse, attending) in enumerate(levels):
            blocks = [Residual(fine, fine, config), Residual(fine, fine, config), _attention(fine, attending)]
            self.downs.append(Down([*blocks, self._halve(fine, coarse, last=i == len(levels) - 1)]))
        self.mid_block1 = Residual(widths[-1], widths[-1], config)
        self.mid_attn = _attention(widths[-1], middle)
        self.mid_block2 = Residual(widths[-1], widths[-1], config)
        for i, (fine, coarse, attending) in reversed(list(enumerate(levels))):
            both = fine + coarse
            blocks = [Residual(both, coarse, config), Residual(both, coarse, config), _attention(coarse, attending)]
            self.ups.append(Up([*blocks, self._double(coarse, fine, last=i == 0)]))
        self.final_res_block = Residual(2 * widths[0], widths[0], config)
        self.final_conv = conv(widths[0], config.out_channels, 1)

    def _halve(self, fine: int, coarse: int, *, last: bool) -> nn.Module:
        conv = CONVOLUTIONS[self.config.axes]
        if last:
            return conv(fine, coarse, 3, padding=1)
        if self.config.classes or self.config.axes == 1:  # these networks of theirs kept an older way
            return conv(fine, coarse, 4, stride=2, padding=1)
        return nn.Sequential(nn.PixelUnshuffle(2), conv(4 * fine, coarse, 1))

    def _double(self, coarse: int, fine: int, *, last: bool) -> nn.Module:
        conv = CONVOLUTIONS[self.config.axes](coarse, fine, 3, padding=1)
        return conv if last else nn.Sequential(nn.Upsample(scale_factor=2.0), conv)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        if self.config.self_condition:
            x = torch.cat([torch.zeros_like(x), x], dim=1)
        embedding = self.time_mlp(t)
        if self.config.classes:
            table = torch.cat([self.classes_emb.weight, self.null_classes_emb[None]])
            embedding = torch.cat([embedding, self.classes_mlp(table[label])], dim=-1)
        x = first = self.init_conv(x)
        kept: list[Tensor] = []
        for down in self.downs:
            x = down(x, embedding, kept)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, embedding)), embedding)
        for up in self.ups:
            x = up(x, embedding, kept)
        return self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), embedding))


def _attention(channels: int, config: AttentionConfig) -> Attention:
    return (Attention if config.full else LinearAttention)(channels, config)


def config_from_state(state: Mapping[str, Tensor], *, heads: int | None = None, former: Former = CURRENT) -> UnetConfig:
    """Read the shape of the network off its state dict.

    Twice as many channels in as out are a self-condition, twice as many out as in a learned variance.

    Args:
        state: The tensors by their names in version 1.8 and later.
        heads: Counts where no learned keys show it; None for heads of 32 channels, as they have by default.
        former: What an old version did.

    Raises:
        ValueError: Keys of the family are missing or of other shapes, or channels cannot be split into heads.
    """
    try:
        return _shapes(state, heads, former)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"not this UNet's state dict: {error} is missing or of another shape") from None


def _shapes(state: Mapping[str, Tensor], heads: int | None, former: Former) -> UnetConfig:
    levels = len({key.split(".")[1] for key in state if key.startswith("downs.")})
    first = state["init_conv.weight"]
    inputs, out = first.shape[1], state["final_conv.weight"].shape[0]
    axes = first.ndim - 2
    if axes not in CONVOLUTIONS:
        raise ValueError(f"not this UNet's state dict: its first convolution has {axes} spatial axes")
    coarse = [state["mid_block1.block1.proj.weight"].shape[1]]
    fourier = state.get("time_mlp.0.weights")
    names = [*(f"downs.{i}.2" for i in range(levels)), "mid_attn"]
    return UnetConfig(
        channels=out if inputs == 2 * out else inputs,
        out_channels=out,
        width=state["time_mlp.1.weight"].shape[0] // 4,
        widths=tuple([state[f"downs.{i}.0.block1.proj.weight"].shape[1] for i in range(levels)] + coarse),
        attention=tuple(replace(_attention_shapes(state, name, heads), former=former, axes=axes) for name in names),
        classes=state["classes_emb.weight"].shape[0] if "null_classes_emb" in state else 0,
        self_condition=inputs == 2 * out,
        fourier=0 if fourier is None else fourier.shape[0],
        grouped="final_res_block.block1.norm.weight" in state,
        former=former,
        axes=axes,
    )


def _attention_shapes(state: Mapping[str, Tensor], name: str, heads: int | None) -> AttentionConfig:
    inner = state[f"{name}.to_qkv.weight"].shape[0] // 3
    full = f"{name}.to_out.weight" in state
    learned = state.get(f"{name}.mem_kv")
    if learned is not None:
        return AttentionConfig(inner, learned.shape[1], learned.shape[2 if full else 3], full)
    # Of a network with classes, or of signals, only the middle's number can be chosen.
    middle_only = "null_classes_emb" in state or state["init_conv.weight"].ndim == 3
    chosen = heads if full or not middle_only else None
    count = chosen or inner // 32
    if not count or inner % count:
        raise ValueError(f"{inner} channels cannot be split into {count} heads: give heads in a card")
    return AttentionConfig(inner, count, 0, full)
