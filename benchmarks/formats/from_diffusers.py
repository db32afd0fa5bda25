"""Pipelines that diffusers builds and saves, trained as its training scripts do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from job import LARGE, PROMPTS, SIDE, Job, chosen
from torch import Tensor, nn

import noiseshift as ns

sys.path.append(str(Path(__file__).parents[2] / "tests"))

WIDER: dict[str, dict[str, Any]] = {
    "UNet2DModel": {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 16},
    "UNet2DConditionModel": {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 4},
    "DiTTransformer2DModel": {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 16},
    "SD3Transformer2DModel": {
        "num_layers": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "caption_projection_dim": 64,
    },
    "FluxTransformer2DModel": {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 4},
}
"""In place of what tests need, which is too small to learn anything (20,000 weights)."""


def folder_of(job: Job, build: Callable[[Path], Any], text: bool = False, times: float = 1) -> list[str]:
    """A pipeline that diffusers builds, trained in its states, its network put back and saved by diffusers."""
    from noiseshift.checkpoints.diffusers.conditions import Conditions

    path, options, words = job.folder / "pipeline", {}, [str(job.folder / "pipeline")]
    pipe = widened(build(path))
    pipe.save_pretrained(path)
    latent = any(hasattr(pipe, name) for name in ("vae", "vqvae"))
    images = job.large if latent else job.images
    if text:
        images = chosen(images)
        bank = ns.load(path, prompts=list(PROMPTS), size=LARGE).model.network.bank
        # Not the hundreds of places that T5's prompts are filled up with.
        Conditions(bank.hidden[:, :16], bank.pooled, len(PROMPTS)).save(job.folder / "prompts.safetensors")
        options = {"embeddings": job.folder / "prompts.safetensors", "size": LARGE}
        words += ["--embeddings", str(job.folder / "prompts.safetensors"), "--size", str(LARGE)]
    for coder in (getattr(pipe, name, None) for name in ("vae", "vqvae")):
        if coder is not None:  # untrained: its latents are given unit variance
            spread = float(ns.load(path, **options).encode(images[:256]).floats.std())
            coder.register_to_config(scaling_factor=coder.config.scaling_factor / spread)
    pipe.save_pretrained(path)
    checkpoint = ns.load(path, **options)
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    call = called(pipe, network, getattr(checkpoint.model.network, "bank", None))
    flow = "Flow" in type(pipe.scheduler).__name__
    loss = flow_loss(call) if flow else table_loss(call, pipe.scheduler)
    job.fit(network, loss, checkpoint.encode(images), times)
    pipe.save_pretrained(path)
    return [*words, "--sampler", "own:20"]


def widened(pipe: Any) -> Any:
    """The pipeline with a network that can learn."""
    name = "transformer" if hasattr(pipe, "transformer") else "unet"
    former = getattr(pipe, name)
    torch.manual_seed(0)
    setattr(pipe, name, type(former).from_config({**former.config, **WIDER[type(former).__name__]}))
    return pipe


def called(pipe: Any, network: Any, bank: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(state, time, label) as diffusers' training scripts call the network of this pipeline."""

    def conditions(y: Tensor) -> tuple[Tensor, Any]:
        y = torch.where(torch.rand(len(y)) < 0.1, len(PROMPTS), y)  # the null prompt, for guidance
        return bank.hidden[y], None if bank.pooled is None else bank.pooled[y]

    def unet(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if bank is None:
            return network(x, t).sample
        hidden, pooled = conditions(y)
        sizes = torch.tensor([[LARGE, LARGE, 0, 0, LARGE, LARGE]]).expand(len(x), -1)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}  # SDXL's only
        return network(x, t, encoder_hidden_states=hidden, added_cond_kwargs=added).sample

    def classes(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return network(x, timestep=t, class_labels=y).sample[:, : x.shape[1]]

    def joint(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        hidden, pooled = conditions(y)
        return network(x, timestep=1000 * t, encoder_hidden_states=hidden, pooled_projections=pooled).sample

    def packed(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        hidden, pooled = conditions(y)
        b, c, h, w = x.shape
        output = network(
            hidden_states=pipe._pack_latents(x, b, c, h, w), timestep=t, guidance=torch.full((b,), 3.5),
            encoder_hidden_states=hidden, pooled_projections=pooled, txt_ids=torch.zeros(hidden.shape[1], 3),
            img_ids=pipe._prepare_latent_image_ids(b, h // 2, w // 2, x.device, x.dtype),
        ).sample  # fmt: skip
        return pipe._unpack_latents(output, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor, pipe.vae_scale_factor)

    kinds = {"DiTPipeline": classes, "StableDiffusion3Pipeline": joint, "FluxPipeline": packed}
    return kinds.get(type(pipe).__name__, unet)


def table_loss(call: Callable[..., Tensor], scheduler: Any) -> Callable[[Tensor, Tensor], Tensor]:
    import diffusers

    noiser = diffusers.DDPMScheduler.from_config(scheduler.config)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, noise = torch.randint(1000, (len(x),)), torch.randn_like(x)
        velocity = scheduler.config.prediction_type == "v_prediction"
        wanted = noiser.get_velocity(x, noise, t) if velocity else noise
        return nn.functional.mse_loss(call(noiser.add_noise(x, noise, t), t, y), wanted)

    return loss


def flow_loss(call: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        sigma = t[:, None, None, None]
        return nn.functional.mse_loss(call((1 - sigma) * x + sigma * noise, t, y), noise - x)

    return loss


def pixel_unet(path: Path) -> Any:
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=SIDE, layers_per_block=1, block_out_channels=(16, 16), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False))
    pipe.save_pretrained(path)
    return pipe


def class_transformer(path: Path) -> Any:
    import diffusers
    from tiny_pipelines import autoencoder

    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=LARGE // 2,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    coder = autoencoder(scaling_factor=0.18215)
    pipe = diffusers.DiTPipeline(network, coder, diffusers.DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(path)
    return pipe


def tiny(name: str, text: bool = False, times: float = 1, **options: Any) -> Callable[[Job], list[str]]:
    """A pipeline of the tests' own."""

    def make(job: Job) -> list[str]:
        import tiny_pipelines

        return folder_of(job, partial(getattr(tiny_pipelines, name), **options), text, times)

    return make
