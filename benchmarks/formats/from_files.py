"""Files of research code, by its own networks, losses and ways to save."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import SIDE, Job, run, write
from torch import Tensor, nn

sys.path += [str(Path(__file__).parents[2] / "tests"), str(Path(__file__).parents[1] / "imagenet")]

WIDTH = 128
LONGER = 4
"""Transformers take so many times the steps of a UNet."""

UNET = {"dim": (3, SIDE, SIDE), "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}


def own(job: Job) -> list[str]:
    data = write(job.folder / "train.npz", job.images)
    shown = ["--width", 64, "--depth", 4, "--no-progress"]
    run(job.folder, "train", data, "--out", "run", "--steps", LONGER * job.steps, *shown)
    return [str(next((job.folder / "run").glob("*.safetensors"))), "--sampler", "euler:20"]


def latents_of(family: str) -> Callable[[Job], list[str]]:
    """A file in the layout of DiT's or SiT's trainer, by docs/how-to/imagenet.md's stand-in, on an autoencoder's latents."""

    def make(job: Job) -> list[str]:
        import standin
        import tiny_pipelines

        from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder

        coder = tiny_pipelines.autoencoder(scaling_factor=1.0)
        spread = float(Autoencoder(coder).encode(job.large[:256].floats).std())
        coder.register_to_config(scaling_factor=1 / spread)
        coder.save_pretrained(job.folder / "vae")
        states = Autoencoder(coder).encode(job.large.floats)
        assert job.large.labels is not None
        np.savez(job.folder / "latents.npz", latents=states.numpy(), labels=job.large.labels.numpy())
        path = job.folder / "model.pt"
        standin.write_checkpoint(family, job.folder / "latents.npz", path, LONGER * job.steps, WIDTH)
        if family == "repa":  # its trainer leaves the projectors in the file
            content = torch.load(path, weights_only=False)
            content["ema"] |= {"projectors.0.0.weight": torch.randn(64, 384), "projectors.0.0.bias": torch.zeros(64)}
            torch.save(content, path)
        # No official width, so heads are not known; a REPA file is known by its projectors.
        path.with_suffix(".yaml").write_text(
            f"heads: {WIDTH // 64}\n" + (f"family: {family}\n" if family != "repa" else "")
        )
        return [
            str(path),
            "--vae",
            str(job.folder / "vae"),
            "--sampler",
            "ddim:20" if family == "dit" else "euler:20",
        ]

    return make


def lucidrains(job: Job) -> list[str]:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
    from PIL import Image

    place = job.folder / "pictures"
    place.mkdir(exist_ok=True)
    for i, pixels in enumerate(job.images.pixels[:10000]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    diffusion = GaussianDiffusion(Unet(32, dim_mults=(1, 2)), image_size=SIDE, sampling_timesteps=10)
    Trainer(
        diffusion, str(place), train_batch_size=64, gradient_accumulate_every=1, train_lr=1e-3, ema_decay=0.99,
        ema_update_every=1,
        train_num_steps=2 * job.steps, save_and_sample_every=2 * job.steps, num_samples=4, calculate_fid=False,
        results_folder=str(job.folder), augment_horizontal_flip=False,
    ).train()  # fmt: skip
    return [str(job.folder / "model-1.pt"), "--size", str(SIDE), "--sampler", "ddim:20"]


def adm(job: Job) -> list[str]:
    package = types.ModuleType("guided_diffusion")  # their __init__ wants nothing, their setup.py wants MPI
    package.__path__ = [str(job.sources["guided_diffusion"] / "guided_diffusion")]
    sys.modules["guided_diffusion"] = package
    scripts: Any = importlib.import_module("guided_diffusion.script_util")
    flags = {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "learn_sigma": True}
    network, diffusion = scripts.create_model_and_diffusion(**{**scripts.model_and_diffusion_defaults(), **flags})

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t = torch.randint(1000, (len(x),))
        return diffusion.training_losses(network, x, t)["loss"].mean()

    torch.save(job.fit(network, loss, times=2).state_dict(), job.folder / "ema.pt")
    (job.folder / "ema.yaml").write_text(f"family: adm\nheads: 4\nsize: {SIDE}\n")
    # Not from the last step of its table, where a poor network's error reaches x0 157-fold: as its own respacing starts.
    return [str(job.folder / "ema.pt"), "--sampler", "diffusers/DDIMScheduler:20"]


def torchcfm_loss(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, state, wanted = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return nn.functional.mse_loss(network(t, state), wanted)

    return loss


def torchcfm(job: Job) -> list[str]:
    from torchcfm.models.unet.unet import UNetModelWrapper

    network = UNetModelWrapper(**UNET)
    state = job.fit(network, torchcfm_loss(network)).state_dict()
    content = {"net_model": state, "ema_model": state, "sched": {}, "optim": {}, "step": job.steps}
    torch.save(content, job.folder / "cfm.pt")
    (job.folder / "cfm.yaml").write_text(f"size: {SIDE}\nheads: 1\n")
    return [str(job.folder / "cfm.pt"), "--sampler", "euler:20"]


def k_diffusion(kind: str, **model: Any) -> Callable[[Job], list[str]]:
    def make(job: Job) -> list[str]:
        import k_diffusion as theirs

        shared = {
            "type": kind, "input_channels": 3, "input_size": [SIDE, SIDE], "sigma_data": 0.6, "sigma_min": 0.01,
            "sigma_max": 80, "sigma_sample_density": {"type": "cosine-interpolated"},
        }  # fmt: skip
        config = {"model": {**shared, **model}, "dataset": {"type": "mnist", "num_classes": 0}}
        config = theirs.config.load_config(config)
        network = theirs.config.make_model(config)
        denoiser = theirs.config.make_denoiser_wrapper(config)(network)
        density = theirs.config.make_sample_density(config["model"])
        job.fit(denoiser, lambda x, y: denoiser.loss(x, torch.randn_like(x), density([len(x)])).mean(), times=2)
        content = {
            "config": config,
            "model": network.state_dict(),
            "model_ema": network.state_dict(),
            "step": job.steps,
        }
        torch.save(content, job.folder / "model_00000600.pth")
        return [str(job.folder / "model_00000600.pth"), "--sampler", "edm:18"]

    return make


def edm(which: str) -> Callable[[Job], list[str]]:
    def make(job: Job) -> list[str]:
        sys.path.insert(0, str(job.sources[which].resolve()))
        second = which == "edm2"
        for name in [name for name in sys.modules if name.split(".")[0] in ("training", "torch_utils", "dnnlib")]:
            del sys.modules[name]  # the other repository's, of the same names
        module = importlib.import_module("training.networks_edm2" if second else "training.networks")
        if second:
            loss_of: Any = importlib.import_module("training.training_loop").EDM2Loss()
            network = module.Precond(
                SIDE, 3, 10, model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]
            )
        else:
            loss_of = importlib.import_module("training.loss").EDMLoss()
            network = module.EDMPrecond(
                SIDE,
                3,
                10,
                model_type="SongUNet",
                model_channels=32,
                channel_mult=[1, 2],
                num_blocks=1,
                attn_resolutions=[4],
            )
        rate = 1e-2 if second else 2e-3  # its weights are normalised, so that steps turn them only
        job.fit(
            network, lambda x, y: loss_of(network, x, nn.functional.one_hot(y, 10).float()).mean(), times=4, rate=rate
        )
        network.requires_grad_(False)
        content = {"ema": network.half() if second else network, "dataset_kwargs": {"path": "fashion-mnist"}}
        (job.folder / f"{which}.pkl").write_bytes(pickle.dumps(content))
        return [str(job.folder / f"{which}.pkl"), "--sampler", "edm:18"]

    return make
