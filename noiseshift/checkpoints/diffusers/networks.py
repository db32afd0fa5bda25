"""diffusers' networks called as ours are: (x, time, label, known) -> (B, C or 2C, H, W).

`label` is a class, or a prompt's place in the bank; `known` is not used: none of them has a noise-unconditional branch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from noiseshift.checkpoints.diffusers.conditions import Bank
from noiseshift.diffusion.families import CONSISTENCY_SCALE


class PlainUnet(nn.Module):
    """UNet2DModel, class-conditional or not (DDPM, DDIM, unconditional LDM).

    Args:
        unet: Of diffusers.
        classes: How many it has; 0 for an unconditional one, which is given no label.
    """

    def __init__(self, unet: nn.Module, classes: int):
        super().__init__()
        self.unet = unet
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        labels = {"class_labels": label} if self.classes else {}
        output: Tensor = self.unet(x, t, **labels).sample
        return output


class Boundary(nn.Module):
    """A consistency model's network with its scheduler's preconditioning: the data predicted from states x0 + sigma eps, equal to
    the state at the least noise (Song et al., arXiv 2303.01469, appendix C). t is 250 log sigma.

    Args:
        unet: Called as the networks here are.
        data: Standard deviation of the data.
        least: The least noise scale.
    """

    def __init__(self, unet: nn.Module, data: float, least: float):
        super().__init__()
        self.unet = unet
        self.data = data
        self.least = least

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        sigma = (t / CONSISTENCY_SCALE).exp().reshape(-1, 1, 1, 1)
        above = sigma - self.least
        total = (sigma.square() + self.data**2).sqrt()
        skip = self.data**2 / (above.square() + self.data**2)
        out = above * self.data / total
        answer: Tensor = self.unet(x / total, t, label, known)
        return skip * x + out * answer


class ClassTransformer(nn.Module):
    """DiTTransformer2DModel; its last class embedding is the null class."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        output: Tensor = self.transformer(x, timestep=t, class_labels=label).sample
        return output


class TextUnet(nn.Module):
    """UNet2DConditionModel.

    Args:
        unet: Of diffusers.
        bank: The encoded prompts, which labels are places in.
        sizes: What SDXL's takes beside: the original height and width, the crop's corner, the target's height and width, in
            pixels (Podell et al., arXiv 2307.01952). None for others.
        guidance: The scale for a network that was distilled under guidance, counted as diffusers does: 1 = unguided (latent
            consistency models, arXiv 2310.04378). None for others.
    """

    def __init__(
        self, unet: nn.Module, bank: Bank, sizes: tuple[int, ...] | None = None, guidance: float | None = None
    ):
        super().__init__()
        self.unet = unet
        self.bank = bank
        self.sizes = sizes
        self.guidance = guidance

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        hidden, pooled = self.bank(label)
        added: dict[str, Any] | None = None
        if self.sizes is not None:
            added = {"text_embeds": pooled, "time_ids": torch.tensor([self.sizes]).to(x).expand(len(x), -1)}
        output: Tensor = self.unet(
            x, t, encoder_hidden_states=hidden, added_cond_kwargs=added, timestep_cond=self._guided(x)
        ).sample
        return output

    def _guided(self, x: Tensor) -> Tensor | None:
        """The embedding of the guidance scale above 1, in thousandths, as their pipelines make it."""
        if self.guidance is None:
            return None
        from diffusers.models.embeddings import get_timestep_embedding

        width = int(cast("Any", self.unet).config["time_cond_proj_dim"])
        scale = torch.full((len(x),), 1000 * (self.guidance - 1), device=x.device)
        embedding: Tensor = get_timestep_embedding(scale, width, downscale_freq_shift=1)
        return embedding.to(x)


class JointTransformer(nn.Module):
    """SD3Transformer2DModel.

    Args:
        transformer: Of diffusers.
        bank: The encoded prompts, which labels are places in; with pooled embeddings.
    """

    def __init__(self, transformer: nn.Module, bank: Bank):
        super().__init__()
        self.transformer = transformer
        self.bank = bank

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        hidden, pooled = self.bank(label)
        output: Tensor = self.transformer(x, timestep=t, encoder_hidden_states=hidden, pooled_projections=pooled).sample
        return output


class PackedTransformer(nn.Module):
    """FluxTransformer2DModel: latents go in as rows of 2×2 patches, each with its place.

    Args:
        transformer: Of diffusers.
        bank: The encoded prompts, which labels are places in; with pooled embeddings.
        guidance: The scale that a guidance-distilled network is given, counted as diffusers does: 1 = unguided. None for one
            that takes none.
    """

    def __init__(self, transformer: nn.Module, bank: Bank, guidance: float | None):
        super().__init__()
        self.transformer = transformer
        self.bank = bank
        self.guidance = guidance

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        hidden, pooled = self.bank(label)
        output: Tensor = self.transformer(
            hidden_states=packed(x),
            timestep=t,
            guidance=None if self.guidance is None else torch.full_like(t, self.guidance),
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            txt_ids=x.new_zeros(hidden.shape[1], 3),
            img_ids=_places(x),
        ).sample
        return unpacked(output, x.shape[2], x.shape[3])


def differentiable(network: nn.Module) -> nn.Module:
    """The same network, made ready for forward-mode derivatives, which the Fokker–Planck estimator takes: torch has none
    of a group normalisation whose input is not contiguous, as it is after a UNet's attention. Changes no value."""
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return network


def packed(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H W / 4, 4 C): a row for every 2×2 patch, channel by channel. H and W must be even."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`.

    Args:
        rows: (B, height · width / 4, 4 C).
        height: H of the result (B, C, H, W), even.
        width: W of it, even.
    """
    b, _, c = rows.shape
    patches = rows.reshape(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, c // 4, height, width)


def _places(x: Tensor) -> Tensor:
    """(H W / 4, 3): 0, row and column of every patch."""
    row, column = torch.meshgrid(*(torch.arange(n // 2, device=x.device) for n in x.shape[2:]), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).to(x)
