"""The network behind the paper's g_phi: it looks at a noisy image and says how noisy it is.

It answers with a mixture of Gaussians in log-SNR, where the level's uncertainty is nearly the same at every level.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LevelConfig:
    """Shape of a level network: input channels, width of the first stage (doubled, tripled after), mixture components."""

    channels: int = 1
    width: int = 32
    components: int = 4

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class LevelNetwork(nn.Module):
    """Three convolutional stages, pooled by mean and by mean square: (B, C, H, W) → log-weights, means, log-sds (B, M)."""

    def __init__(self, config: LevelConfig):
        super().__init__()
        self.config = config
        w = config.width
        self.stages = nn.ModuleList(
            [
                _stage(config.channels, w, stride=1),
                _stage(w, 2 * w, stride=2),
                _stage(2 * w, 3 * w, stride=2),
            ]
        )
        self.head = nn.Sequential(nn.Linear(2 * 6 * w, 4 * w), nn.SiLU(), nn.Linear(4 * w, 3 * config.components))
        # Spread the components over the log-SNRs that occur, so that each finds its own range.
        with torch.no_grad():
            bias = self.head[-1].bias.view(3, config.components)
            bias[1] = torch.linspace(-6, 6, config.components)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, h = [], x
        for stage in self.stages:
            h = stage(h)
            # The mean square is what a noise scale shows in; the log keeps it in range from 1e-4 to 1.
            pooled += [h.mean((2, 3)), (h.square().mean((2, 3)) + 1e-6).log()]
        raw = self.head(torch.cat(pooled, dim=1)).float().view(-1, 3, self.config.components)
        return raw[:, 0].log_softmax(-1), raw[:, 1], raw[:, 2].clamp(-5, 3)


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    # No normalisation over space: it would divide away the very scale that is asked for.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.SiLU()
    )


def mixture_log_density(parts: tuple[Tensor, Tensor, Tensor], log_snr: Tensor) -> Tensor:
    """Log density in log-SNR of the network's mixture, (B, G) at log_snr (G,) or (B, G)."""
    log_weight, mean, log_sd = (part[:, None, :] for part in parts)
    z = (log_snr.to(mean)[..., None] - mean) / log_sd.exp()
    return torch.logsumexp(log_weight - 0.5 * z.square() - log_sd - 0.5 * math.log(2 * math.pi), dim=-1)


def negative_log_likelihood(parts: tuple[Tensor, Tensor, Tensor], log_snr: Tensor) -> Tensor:
    """Mean over the batch of -log p(log_snr | x), log_snr (B,)."""
    return -mixture_log_density(parts, log_snr[:, None]).mean()


def image_to_channels(x: Tensor, channels: int) -> Tensor:
    """Check the shape (B, C, H, W) and pad to the network's least size. Raises ValueError for other channels."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"the level network reads (B, {channels}, H, W), got {tuple(x.shape)}: train one for this data")
    return x if min(x.shape[2:]) >= 4 else F.pad(x, (0, 4, 0, 4))
