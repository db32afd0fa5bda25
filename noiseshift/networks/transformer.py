"""The diffusion transformer of DiT and SiT, under their official state-dict keys.

Peebles & Xie, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748); Ma et al., "SiT" (arXiv 2401.08740).
One addition: a learned *null* noise embedding (`t_embedder.null`), the noise condition dropped as CFG drops the class
(Zhong, Jiang, Tao et al., arXiv 2510.12497). A checkpoint without that key simply has no noise-unconditional branch.

The network knows nothing of schedules: it is handed the number that its time embedding was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseshift.networks.blocks import attend, sinusoids


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a DiT/SiT network; everything but `heads` can be read off a state dict.

    Attributes:
        size: pixels per side.
        channels: of a state.
        patch: pixels per side of a patch.
        width: of a token.
        depth: how many blocks.
        heads: of the attention.
        classes: without the null class; 0 for an unconditional network.
        out_channels: twice `channels` where a variance is learned.
        class_dropout: whether there is a null class.
        noise_dropout: whether there is a null embedding of the noise level.
    """

    size: int = 28
    channels: int = 1
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    classes: int = 10
    out_channels: int = 1
    class_dropout: bool = True
    noise_dropout: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the time, then an MLP; (B,) → (B, width).

    Args:
        width: Of a token.
        frequencies: Number of features, sines and cosines together.
        null: Whether there is a learned embedding for where the noise is unknown.
    """

    def __init__(self, width: int, frequencies: int = 256, *, null: bool = True):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.frequencies = frequencies
        self.null = nn.Parameter(torch.zeros(width)) if null else None

    def forward(self, t: Tensor, known: Tensor | None = None) -> Tensor:
        embedding = self.mlp(sinusoids(t, self.frequencies))
        if known is None or self.null is None:
            return embedding
        return torch.where(known[:, None], embedding, self.null.to(embedding))


class LabelEmbedder(nn.Module):
    """Class embedding; the last row is the null class when the network was trained with class dropout.

    Args:
        classes: How many, without the null class.
        width: Of a token.
        null: Whether there is a row for the null class.
    """

    def __init__(self, classes: int, width: int, *, null: bool = True):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + int(null), width)

    def forward(self, label: Tensor) -> Tensor:
        return self.embedding_table(label)


class PatchEmbed(nn.Module):
    """States (B, C, H, W) → tokens (B, patches, width), row by row.

    Args:
        patch: Pixels per side of a patch.
        channels: C.
        width: Of a token.
    """

    def __init__(self, patch: int, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Tokens (B, N, width) attend to each other.

    Args:
        width: Of a token.
        heads: Divide `width`.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(b, n, w))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-Zero).

    Args:
        width: Of a token and of the condition.
        heads: Of the attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate_a[:, None] * self.attn(_modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(_modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Tokens (B, N, width) → pixels of their patches (B, N, patch² · out_channels), shifted and scaled by the condition.

    Args:
        width: Of a token and of the condition.
        patch: Pixels per side of a patch.
        out_channels: Of the answer.
    """

    def __init__(self, width: int, patch: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch * patch * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(_modulate(self.norm_final(x), shift, scale))


class Transformer(nn.Module):
    """DiT/SiT.

    `forward(x, t, label, known)` takes x (B, C, H, W); t (B,); label (B,) integers, `classes` being the null class; and known
    (B,) bool, False where the noise level is withheld. It returns (B, out_channels, H, W).
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.x_embedder = PatchEmbed(config.patch, config.channels, width)
        self.t_embedder = TimestepEmbedder(width, null=config.noise_dropout)
        self.y_embedder = LabelEmbedder(config.classes, width, null=config.class_dropout)
        grid = config.size // config.patch
        self.pos_embed = nn.Parameter(_sincos_grid(width, grid)[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, config.patch, config.out_channels)
        self.apply(_xavier)
        self._zero_gates()

    def _zero_gates(self) -> None:
        """adaLN-Zero: every block starts as the identity and the output starts at 0 (arXiv 2212.09748, §3.2)."""
        for weight in (
            self.y_embedder.embedding_table.weight,
            *(w for w in self.t_embedder.parameters() if w.ndim == 2),
        ):
            nn.init.normal_(weight, std=0.02)
        if self.t_embedder.null is not None:
            nn.init.normal_(self.t_embedder.null, std=0.02)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name or name.startswith("final_layer."):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        c = self.t_embedder(t, known) + self.y_embedder(label)
        h = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        return self._unpatchify(self.final_layer(h, c))

    def _unpatchify(self, h: Tensor) -> Tensor:
        p = self.config.patch
        channels = self.config.out_channels
        grid = self.config.size // p
        h = h.reshape(-1, grid, grid, p, p, channels)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, grid * p, grid * p)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        # The patch convolution is a linear map of the flattened patch and is initialised as one.
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _sincos_grid(width: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (grid², width): half of the channels encode the column, half the row."""
    if torch.get_default_device().type == "meta":  # a file has the numbers
        return torch.empty(grid * grid, width)
    omega = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    axis = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    line = torch.cat([axis.sin(), axis.cos()], dim=1)
    columns = line[None, :, :].expand(grid, grid, -1)
    rows = line[:, None, :].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(grid * grid, width).float()


def config_from_state(
    state: Mapping[str, Tensor], *, heads: int | None = None, classes: int | None = None
) -> TransformerConfig:
    """Read the shape of a DiT/SiT network off its state dict.

    The last row of the class embedding is the null class, unless `classes` says that all rows are classes.

    Args:
        state: The tensors by their official names.
        heads: Attention heads; None for those of the official sizes (width 384/768/1024/1152 → 6/12/16/16).
        classes: How many: all rows of the class embedding, or all but the last; None for all but the last.

    Raises:
        ValueError: Keys of the family are missing or of other shapes, the file has another number of classes, or the number
            of heads, which no tensor shows, does not divide the width or was not given for one that is not official.
    """
    try:
        proj = state["x_embedder.proj.weight"]
        table = state["y_embedder.embedding_table.weight"]
        positions = state["pos_embed"]
        final = state["final_layer.linear.weight"]
    except KeyError as error:
        raise ValueError(f"not a DiT/SiT state dict: {error.args[0]} is missing, give another file") from None
    if (proj.ndim, table.ndim, positions.ndim, final.ndim) != (4, 2, 3, 2):
        raise ValueError("not a DiT/SiT state dict: its embeddings have other shapes, give another file")
    tokens, width = positions.shape[1:]
    patch = proj.shape[-1]
    rows = table.shape[0]
    heads = heads or {384: 6, 768: 12, 1024: 16, 1152: 16}.get(width)
    if heads is None or width % heads:
        why = "is not an official size" if heads is None else f"cannot be split among {heads} heads"
        raise ValueError(f"width {width} {why}: give the number of heads in the card")
    if classes not in (None, rows, rows - 1):
        raise ValueError(f"the file has {rows} class embeddings, the card {classes} classes: correct the card")
    return TransformerConfig(
        size=math.isqrt(tokens) * patch,
        channels=proj.shape[1],
        patch=patch,
        width=width,
        # Counted, not read off the highest number: a stray key must not ask for a billion blocks.
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        heads=heads,
        classes=rows if classes == rows else rows - 1,
        out_channels=final.shape[0] // patch**2,
        class_dropout=classes != rows,
        noise_dropout="t_embedder.null" in state,
    )
