"""The ImageNet recipe of docs/how-to/imagenet.md, command by command, on stand-ins small enough for two CPU cores.

    python benchmarks/imagenet/standin.py --out runs/standin        # a quarter of an hour; --steps 20 for a try

Everything has the real thing's format: pictures in a folder per class, an AutoencoderKL folder, and SiT and DiT files as
their authors' trainers save them ({model, ema, opt, args}, patch 2, latents of 4 channels, learned sigma), trained here on
Fashion-MNIST pictures of 64×64. What is measured means nothing; that it is measured, by these commands, is the point.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import click
import torch
from PIL import Image

import noiseshift as ns
from noiseshift.checkpoints.card import FAMILIES
from noiseshift.checkpoints.formats.rebuilt import time_input
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.training.train import Objective, TrainingConfig, train

HERE = Path(__file__).parent
SIDE = 64


def write_pictures(folder: Path) -> None:
    """The bundled images, 64×64 and in colour, in a folder per class; every tenth is held out."""
    data = ns.data.reference()
    assert data.labels is not None
    for k, (pixels, label) in enumerate(zip(data.pixels, data.labels, strict=True)):
        place = folder / ("val" if k // 10 % 10 == 0 else "train") / f"n{int(label):08d}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).resize((SIDE, SIDE)).convert("RGB").save(place / f"{k}.png")


def write_autoencoder(folder: Path, pictures: Path) -> None:
    """An AutoencoderKL of the usual factor 8, untrained, with the scaling_factor that gives its latents unit variance."""
    from diffusers import AutoencoderKL

    from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [8, 8, 16, 16],
    }
    network = AutoencoderKL(**blocks, layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
    some = ns.data.load_images(pictures / "val").floats[:64]
    network.register_to_config(scaling_factor=1 / float(Autoencoder(network).encode(some).std()))
    network.save_pretrained(folder)


def write_checkpoint(family: str, latents: Path, path: Path, steps: int, width: int = 384) -> None:
    """A small network of a family, in its own convention, saved as its authors' trainer does; its heads have 64 channels."""
    card, images = FAMILIES[family], ns.data.load_images(latents)
    schedule, channels = card.build_schedule(), images.pixels.shape[1]
    torch.manual_seed(0)
    config = TransformerConfig(SIDE // 8, channels, 2, width, 4, width // 64, 10, 2 * channels, noise_dropout=False)
    objective = Objective(schedule, card.prediction, time_input(card.time, schedule), -1.0 if family == "sit" else 1.0)
    training = TrainingConfig(steps, batch=64, ema=0.99, noise_dropout=0.0)
    network = Transformer(config)
    state = train(network, objective, images, training, path.parent / f".{family}-training")
    args = argparse.Namespace(model=f"{family}-stand-in", image_size=SIDE, num_classes=10)
    torch.save({"model": network.state_dict(), "ema": state, "opt": {}, "args": args}, path)


def write_extractor(path: Path) -> None:
    """In Inception's place: 48 numbers per picture."""
    torch.jit.script(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())).save(str(path))


def run(*words: object, processes: int = 1) -> None:
    line = [str(word) for word in words]
    click.echo(f"+ {'torchrun -m ' if processes > 1 else ''}{' '.join(line)}", err=True)
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    subprocess.run([sys.executable, *many, *(["-m", *line] if line[0] == "noiseshift" else line)], check=True)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/standin"), show_default=True)
@click.option("--steps", default=600, show_default=True, help="Of training a stand-in.")
@click.option("--processes", default=2, show_default=True)
def main(out: Path, steps: int, processes: int) -> None:
    pictures, vae = out / "pictures", out / "vae"
    write_pictures(pictures)
    write_autoencoder(vae, pictures)
    write_extractor(out / "looks.pt")
    for part, name in (("train", "train.npz"), ("val", "heldout.npz")):
        run(HERE / "encode.py", pictures / part, vae, out / name, "--size", SIDE)
    small = ("--device", "cpu", "--precision", "fp32", "--vae", vae, "--data", out / "heldout.npz", "--batch", 16)
    few = ("--samples", 64, "--points", 4, "--estimator", "residual,fokker-planck:8")
    for family, name, sampler in (("sit", "sit-xl", "em:20"), ("dit", "dit-xl", "ddpm:20")):
        path = out / f"{family}.pt"
        write_checkpoint(family, out / "train.npz", path, steps)
        config = ("--config", HERE / f"{name}.yaml")
        run("noiseshift", "measure", path, *config, *small, "--dry-run")
        run(
            *(
                "noiseshift",
                "measure",
                path,
                *config,
                *small,
                *few,
                "--sampler",
                sampler,
                "--out",
                out / f"{family}-run",
            ),
            processes=processes,
        )
        aware = out / f"{family}-aware"
        run(
            *("noiseshift", "finetune", path, "--family", family, "--data", out / "train.npz", "--out", aware),
            *("--part", "null", "--steps", max(4, steps // 20), "--batch", 16),
            processes=processes,
        )
        run(
            *("noiseshift", "correct", aware / "model.safetensors", "--sampler", sampler, *small, "--samples", 64),
            *("--measured", 32, "--nag", 1, "--cfg", 0.5, "--estimator", "residual", "--reference", pictures / "val"),
            *("--extractor", out / "looks.pt", "--out", out / f"{family}-correct"),
            processes=processes,
        )


if __name__ == "__main__":
    main()
