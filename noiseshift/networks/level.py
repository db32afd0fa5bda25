"""The network behind the paper's g_phi: from a noisy image it estimates how noisy it is.

Noise is read where the image is flat, so the scale of local detail is measured first and turned into a logarithm, and
only then is it decided where to look. The answer is a mixture of Gaussians in log-SNR, in which the level's uncertainty
is nearly the same at every level.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 4  # pixels per side: a 3×3 filter and one halving must fit


@dataclass(frozen=True)
class LevelConfig:
    """Shape of a level network.

    Attributes:
        channels: of an image.
        width: number of detail filters.
        components: of the mixture.
    """

    channels: int = 1
    width: int = 16
    components: int = 4

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class LevelNetwork(nn.Module):
    """(B, C, H, W) → log-weights, means and log-sds of a mixture over log-SNR, (B, components) each.

    Any H, W ≥ 4; below 100,000 parameters at the default width.
    """

    def __init__(self, config: LevelConfig):
        super().__init__()
        self.config = config
        w = config.width
        self.filters = nn.Conv2d(config.channels, w, 3, bias=False)
        self.look = nn.Conv2d(config.channels, w, 3)
        self.fine = _block(2 * w, 2 * w, stride=1)
        self.coarse = _block(2 * w, 4 * w, stride=2)
        self.fine_gate, self.coarse_gate = nn.Conv2d(2 * w, 2 * w, 1), nn.Conv2d(4 * w, 4 * w, 1)
        answer = nn.Linear(8 * w, 3 * config.components)
        self.head = nn.Sequential(nn.Linear(9 * w + 1, 8 * w), nn.SiLU(), answer)
        # Spread the components over the log-SNRs that occur, so that each finds its own range.
        with torch.no_grad():
            answer.bias.view(3, config.components)[1] = torch.linspace(-6, 6, config.components)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Logarithms of energies from 1e-6 to 1 lose the level in half precision: full precision but for the blocks.
        with torch.autocast(x.device.type, enabled=False):
            energy = self._energy(x)
            scale = x.square().mean((1, 2, 3), keepdim=True) + 1e-6
            view = F.avg_pool2d(F.silu(self.look(x / scale.sqrt())), 2)
            maps = torch.cat([_log(F.avg_pool2d(energy, 2)), view], dim=1)
        fine = self.fine(maps)
        coarse = self.coarse(fine)
        pooled = [
            maps.mean((2, 3)),
            _log(energy.mean((2, 3))),
            _attend(fine, self.fine_gate(fine)),
            _attend(coarse, self.coarse_gate(coarse)),
            scale.log().flatten(1),
        ]
        with torch.autocast(x.device.type, enabled=False):
            raw = self.head(torch.cat(pooled, dim=1)).view(-1, 3, self.config.components)
        return raw[:, 0].log_softmax(-1), raw[:, 1], raw[:, 2].clamp(-5, 3)

    def _energy(self, x: Tensor) -> Tensor:
        # Filters without a mean: a flat background must leave nothing, or its brightness would hide a low level.
        weight = self.filters.weight - self.filters.weight.mean((2, 3), keepdim=True)
        return F.conv2d(x, weight).square()


def _block(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    # No normalisation over space: it would divide away the very scale that is asked for.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.SiLU(),
    )


def _log(energy: Tensor) -> Tensor:
    """Log energy brought to about ±1 over the levels that occur; the floor keeps noiseless flat regions finite."""
    return ((energy + 1e-7).log() + 4) / 4


def _attend(values: Tensor, gate: Tensor) -> Tensor:
    """Each channel's mean over the places that its gate chooses, (B, C, H, W) → (B, C) float32."""
    weight = gate.float().flatten(2).softmax(-1)
    return (weight * values.float().flatten(2)).sum(-1)


def mixture_log_density(parts: tuple[Tensor, Tensor, Tensor], log_snr: Tensor) -> Tensor:
    """Log density in log-SNR of the network's mixture, (B, G).

    Args:
        parts: What `LevelNetwork` answers: log-weights, means and log-sds, (B, components) each.
        log_snr: Where it is read: (G,) for all rows, or (B, G).
    """
    log_weight, mean, log_sd = (part[:, None, :] for part in parts)
    z = (log_snr.to(mean)[..., None] - mean) / log_sd.exp()
    return torch.logsumexp(log_weight - 0.5 * z.square() - log_sd - 0.5 * math.log(2 * math.pi), dim=-1)


def negative_log_likelihood(parts: tuple[Tensor, Tensor, Tensor], log_snr: Tensor) -> Tensor:
    """Mean over the batch of -log p(log_snr | x).

    Args:
        parts: What `LevelNetwork` answers for x.
        log_snr: (B,) the log-SNRs that x was made at.
    """
    return -mixture_log_density(parts, log_snr[:, None]).mean()


def check_images(x: Tensor, channels: int) -> Tensor:
    """`x` itself, where the level network can read it.

    Args:
        x: (B, channels, H, W) with H, W ≥ 4.
        channels: That the network was made for.

    Raises:
        ValueError: It has another shape.
    """
    if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < SMALLEST:
        expected = f"(B, {channels}, H, W) with H, W ≥ {SMALLEST}"
        raise ValueError(f"the level network reads {expected}, got {tuple(x.shape)}: train one for this data")
    return x
