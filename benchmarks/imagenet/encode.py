"""Pictures to latents, once: centre-cropped and resized as DiT and SiT do, then through an autoencoder.

    python benchmarks/imagenet/encode.py imagenet/val sd-vae-ft-ema heldout.npz --size 256 --device cuda

Writes `latents` (float16, in the scale that the network takes) and `labels` (the sub-folders, in order) to an npz that
`--data` reads. `--rows` takes that many pictures, spread over all classes.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from rich.progress import track

from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder
from noiseshift.data import to_float

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


def picture(path: Path, size: int) -> torch.Tensor:
    """uint8 (3, size, size): halved while twice too large, then bicubic, then the centre."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


def spread(files: list[Path], rows: int | None) -> list[Path]:
    """`rows` of the files, evenly through the sorted list and so through its folders."""
    if rows is None or rows >= len(files):
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, rows).round().astype(int)]


@click.command()
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.argument("vae", type=click.Path(exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", default=256, show_default=True)
@click.option("--rows", type=int)
@click.option("--batch", default=32, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(pictures: Path, vae: str, out: Path, size: int, rows: int | None, batch: int, device: str) -> None:
    every = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
    classes = {folder: k for k, folder in enumerate(sorted({path.parent for path in every}))}
    files = spread(every, rows)
    coder = Autoencoder.load(vae)
    latents = []
    for start in track(range(0, len(files), batch), description="encoding"):
        images = torch.stack([picture(path, size) for path in files[start : start + batch]])
        latents.append(coder.encode(to_float(images).to(device)).half().cpu().numpy())
    np.savez(out, latents=np.concatenate(latents), labels=np.array([classes[path.parent] for path in files]))
    click.echo(f"written: {out}, {len(files)} latents of {len(classes)} classes")


if __name__ == "__main__":
    main()
