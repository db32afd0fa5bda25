"""The UNet of ADM (guided-diffusion), under its official state-dict keys; torchcfm trains the same network.

Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233). The network knows nothing of
schedules: it is handed the number that its time embedding was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.networks.blocks import attend, sinusoids


@dataclass(frozen=True)
class AdmConfig:
    """Shape of an ADM UNet. No tensor shows the last three.

    Attributes:
        channels: Of a state.
        out_channels: Twice `channels` where a variance is learned.
        width: Features of the time; the embedding has four times as many.
        widths: Channels at every resolution, the finest first.
        blocks: Residual blocks at each resolution of the encoder; the decoder has one more.
        attention: Whether each resolution attends.
        rows: Of the class embedding, 0 where there is none.
        scale_shift: Whether the embedding scales and shifts what it meets, or else is added.
        residual_resampling: Whether residual blocks halve and double, not single convolutions.
        heads: Attention heads, whatever the channels.
        head_channels: Channels of a head, where `heads` is None; one head where both are.
        new_order: Whether queries, keys and values are apart before heads are ("new attention order").
    """

    channels: int
    out_channels: int
    width: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    rows: int = 0
    scale_shift: bool = True
    residual_resampling: bool = False
    heads: int | None = None
    head_channels: int | None = None
    new_order: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def heads_of(self, channels: int) -> int:
        """Attention heads where there are `channels`."""
        return self.heads or channels // (self.head_channels or channels)


class Residual(nn.Module):
    """Two convolutions around the embedding; H and W stay, or are halved or doubled.

    Args:
        channels: Of the input.
        out: Channels of the result.
        config: Of the network.
        resample: Halves or doubles both the input and what is made of it; None for neither.
    """

    def __init__(self, channels: int, out: int, config: AdmConfig, resample: nn.Module | None = None):
        super().__init__()
        self.scale_shift = config.scale_shift
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.width, (1 + config.scale_shift) * out))
        # The third place is dropout's, which has no weights.
        self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
        condition = self.emb_layers(embedding)[..., None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + condition)
        return self.skip_connection(self.resample(x)) + h


class Attention(nn.Module):
    """Places attend to each other.

    Args:
        channels: Of the input and the result.
        config: Of the network: how channels are split into heads.
    """

    def __init__(self, channels: int, config: AdmConfig):
        super().__init__()
        self.heads = config.heads_of(channels)
        self.new_order = config.new_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        b, c = x.shape[:2]
        qkv = self.qkv(self.norm(x.flatten(2))).transpose(1, 2)
        if self.new_order:
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        h = attend(q, k, v).transpose(1, 2).reshape(b, -1, c)
        return x + self.proj_out(h.transpose(1, 2)).reshape(x.shape)


class Halve(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x)


class Double(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0))


class Stage(nn.ModuleList):
    """Layers one after the other, each given the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, embedding)
        return x


class Adm(nn.Module):
    """ADM's UNet. `forward(x, t, label, known)`: x (B, C, H, W), H and W divisible by 2 ** (resolutions - 1); t (B,);
    label (B,) rows of the class embedding, if there is one. Returns (B, out_channels, H, W)."""

    def __init__(self, config: AdmConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        embedding = 4 * config.width
        last = len(config.widths) - 1
        self.time_embed = nn.Sequential(nn.Linear(config.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(config.rows, embedding) if config.rows else None

        channels = widths[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(config.channels, channels, 3, padding=1)])])
        kept = [channels]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.input_blocks.append(Stage(self._layers(channels, level)))
                channels = width
                kept.append(channels)
            if level < last:
                self.input_blocks.append(Stage([self._resampling(channels, nn.AvgPool2d(2), Halve)]))
                kept.append(channels)

        self.middle_block = Stage(
            [Residual(channels, channels, config), Attention(channels, config), Residual(channels, channels, config)]
        )

        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(config.blocks + 1):
                layers = self._layers(channels + kept.pop(), level)
                channels = widths[level]
                if level and i == config.blocks:
                    layers.append(self._resampling(channels, nn.Upsample(scale_factor=2.0), Double))
                self.output_blocks.append(Stage(layers))
        self.out = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, config.out_channels, 3, padding=1))

    def _layers(self, channels: int, level: int) -> list[nn.Module]:
        """A residual block at a resolution, and attention where it attends."""
        width = self.config.widths[level]
        attention = [Attention(width, self.config)] if self.config.attention[level] else []
        return [Residual(channels, width, self.config), *attention]

    def _resampling(self, channels: int, resample: nn.Module, single: type[Halve] | type[Double]) -> nn.Module:
        if self.config.residual_resampling:
            return Residual(channels, channels, self.config, resample)
        return single(channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        embedding = self.time_embed(sinusoids(t, self.config.width))
        if self.label_emb is not None:
            embedding = embedding + self.label_emb(label)
        kept = []
        for block in self.input_blocks:
            x = block(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), embedding)
        return self.out(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def config_from_state(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    head_channels: int | None = None,
    new_order: bool = False,
) -> AdmConfig:
    """Read the shape of an ADM UNet off its state dict; what no tensor shows is given.

    Args:
        state: The tensors by their official names.
        heads: Attention heads.
        head_channels: Channels of a head, in place of heads.
        new_order: Whether queries, keys and values are apart before heads are.

    Raises:
        ValueError: Keys of the family are missing or of other shapes, or channels cannot be split so.
    """
    try:
        config = _shapes(state)
    except (KeyError, IndexError) as error:
        raise ValueError(f"not an ADM state dict: {error} is missing or of another shape, give another file") from None
    attending = {width for width, attends in zip(config.widths, config.attention, strict=True) if attends}
    split = heads or head_channels
    for width in sorted(attending | {config.widths[-1]}):
        if split is not None and (split < 1 or width % split):
            what = f"{heads} heads" if heads else f"heads of {head_channels} channels"
            raise ValueError(f"{width} channels cannot be split into {what}: correct the card")
    return AdmConfig(**{**config.as_dict(), "heads": heads, "head_channels": head_channels, "new_order": new_order})


def _shapes(state: Mapping[str, Tensor]) -> AdmConfig:
    outputs = len({key.split(".")[1] for key in state if key.startswith("output_blocks.")})
    # A resolution ends where an output block doubles: with a convolution, or with a second residual block.
    ends = [
        i
        for i in range(outputs)
        if any(f"output_blocks.{i}.{j}.{key}" in state for j in (1, 2) for key in ("conv.weight", "in_layers.0.weight"))
    ]
    period = ends[0] + 1 if ends else outputs
    if period < 2 or outputs % period:
        raise KeyError("output_blocks")
    starts = range(1, outputs, period)
    widths = tuple(state[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in starts)
    labels = state.get("label_emb.weight")
    return AdmConfig(
        channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        width=state["time_embed.0.weight"].shape[1],
        widths=widths,
        blocks=period - 1,
        attention=tuple(f"input_blocks.{i}.1.qkv.weight" in state for i in starts),
        rows=0 if labels is None else labels.shape[0],
        scale_shift=state["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * widths[0],
        residual_resampling=len(widths) > 1 and f"input_blocks.{period}.0.op.weight" not in state,
    )
