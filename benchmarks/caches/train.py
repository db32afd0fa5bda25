"""A small pipeline of diffusers that takes its caches: a Flux transformer on an autoencoder's latents, of Fashion-MNIST.

    python benchmarks/caches/train.py --data /usr/share/datasets/fashion-mnist --out runs/tiny-flux

The data are Debian's package `dataset-fashion-mnist` (MIT). Writes a folder as `save_pretrained` does, and beside the pipeline's
parts `embeddings.safetensors`: a fixed vector for each of the ten classes, in place of encoded prompts, and zeros for none.
About twenty minutes of one core. Neither data nor weights are part of this repository.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import click
import diffusers
import torch
from torch import Tensor, nn

from noiseshift.checkpoints.diffusers.conditions import Bank, Conditions
from noiseshift.checkpoints.diffusers.networks import PackedTransformer
from noiseshift.data import Images, load_images

CLASSES, TOKENS, WIDTH = 10, 4, 32


def autoencoder() -> diffusers.AutoencoderKL:
    """28 × 28 grey pictures to 4 channels of 14 × 14."""
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=28,
        mid_block_add_attention=False,
    )


def transformer() -> diffusers.FluxTransformer2DModel:
    """49 tokens of 2 × 2 latents, 6 blocks of width 64."""
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 6, 6),
    )


def conditions() -> Conditions:
    """A fixed random vector for each class, and zeros for none."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(CLASSES + 1, TOKENS, WIDTH, generator=generator)
    pooled = torch.randn(CLASSES + 1, WIDTH, generator=generator)
    hidden[-1], pooled[-1] = 0, 0
    return Conditions(hidden, pooled, CLASSES)


def drawn(images: Images, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures in [-1, 1], mirrored at random, and their classes."""
    chosen = torch.randint(len(images), (rows,), generator=generator)
    part = images[chosen]
    assert part.labels is not None
    return part.floats, part.labels


def averaged(average: nn.Module, network: nn.Module, step: int) -> None:
    decay = min(0.995, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def train_autoencoder(images: Images, steps: int) -> diffusers.AutoencoderKL:
    """By squared and absolute error and a small Kullback–Leibler term; then its latents are given mean 0 and spread 1."""
    generator = torch.Generator().manual_seed(1)
    network = autoencoder()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    for step in range(steps):
        x, _ = drawn(images, 32, generator)
        found = network.encode(x).latent_dist
        z = found.mean + found.std * torch.randn(found.mean.shape, generator=generator)
        off = network.decode(z).sample - x
        loss = off.square().mean() + 0.2 * off.abs().mean() + 1e-4 * found.kl().mean() / z[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"autoencoder {step}: rms error {float(off.detach().square().mean().sqrt()):.4f}", flush=True)
    with torch.no_grad():
        z = network.eval().encode(drawn(images, 1000, generator)[0]).latent_dist.mode()
    network.register_to_config(scaling_factor=1 / float(z.std()), shift_factor=float(z.mean()))
    return network


def train_transformer(coder: diffusers.AutoencoderKL, images: Images, steps: int, batch: int) -> nn.Module:
    """The velocity of the straight path, t = 0 data; one class in ten is dropped."""
    generator = torch.Generator().manual_seed(2)
    network = transformer()
    whole = PackedTransformer(network, Bank(conditions()), None)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.1)
    scale, shift = coder.config.scaling_factor, coder.config.shift_factor
    started, lost = time.time(), 0.0
    for step in range(steps):
        x, label = drawn(images, batch, generator)
        with torch.no_grad():
            z = (coder.encode(x).latent_dist.mode() - shift) * scale
        t = torch.sigmoid(torch.randn(batch, generator=generator))
        eps = torch.randn(z.shape, generator=generator)
        label = torch.where(torch.rand(batch, generator=generator) < 0.1, CLASSES, label)
        state = torch.lerp(z, eps, t[:, None, None, None])
        loss = (whole(state, t, label) - (eps - z)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged(average, network, step)
        lost += float(loss.detach())
        if (step + 1) % 100 == 0:
            print(f"transformer {step + 1}: loss {lost / 100:.4f}, {time.time() - started:.0f} s", flush=True)
            lost = 0.0
    return average.eval()


@click.command()
@click.option("--data", type=click.Path(exists=True), default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--coder-steps", default=400, show_default=True)
@click.option("--steps", default=2000, show_default=True)
@click.option("--batch", default=48, show_default=True)
def main(data: str, out: Path, coder_steps: int, steps: int, batch: int) -> None:
    torch.manual_seed(0)
    images = load_images(data, part="train")
    coder = train_autoencoder(images, coder_steps)
    network = train_transformer(coder, images, steps, batch)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    diffusers.FluxPipeline(scheduler, coder, transformer=network, **nothing).save_pretrained(out)
    conditions().save(out / "embeddings.safetensors", overwrite=True)


if __name__ == "__main__":
    main()
