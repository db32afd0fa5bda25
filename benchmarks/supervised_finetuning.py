"""Supervised fine-tuning, small: pretrain on five classes of Fashion-MNIST, fine-tune on few images of the other five, then
{none, CFG, domain guidance} with and without NAG, in one table.

    python benchmarks/supervised_finetuning.py --out runs/sft       # half an hour on two CPU cores; resumes

Each stage is one `noiseshift` command, printed as it starts. The fine-tuning brings in the noise-unconditional branch; the
pretrained model never had one. Distances are to all real training images of the second five classes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import yaml

import noiseshift as ns
from noiseshift.data import ASSETS, Images, load_idx

ESTIMATOR = "fashion-sit-estimator"


def write(images: Images, classes: range, path: Path, rows: int | None = None) -> None:
    """The images of `classes`, relabelled from 0, the first `rows` of a fixed shuffle, as an npz."""
    assert images.labels is not None
    pixels, labels = images.pixels.numpy(), images.labels.numpy()
    kept = np.flatnonzero(np.isin(labels, classes))
    kept = np.random.default_rng(0).permutation(kept)[:rows]
    np.savez(path, images=pixels[kept], labels=labels[kept] - classes.start)


def noiseshift(*words: object) -> None:
    line = [str(word) for word in words]
    click.echo(f"+ noiseshift {' '.join(line)}", err=True)
    subprocess.run([sys.executable, "-m", "noiseshift", *line], check=True)


def give_estimator(model: Path) -> None:
    """The bundled level estimator has seen all ten classes on this schedule: let the card name it."""
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(ASSETS / f"{ESTIMATOR}{suffix}", model.parent)
    card = model.with_suffix(".yaml")
    values = yaml.safe_load(card.read_text()) | {"estimator": f"{ESTIMATOR}.safetensors"}
    card.write_text(yaml.safe_dump(values, sort_keys=False))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/sft"), show_default=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--steps", default=3000, show_default=True, help="Of pretraining.")
@click.option("--tuning", default=600, show_default=True, help="Steps of fine-tuning.")
@click.option("--rows", default=2000, show_default=True, help="Images to fine-tune on.")
@click.option("--samples", default=2000, show_default=True)
def main(out: Path, data: str, steps: int, tuning: int, rows: int, samples: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    train = load_idx(data, "train")
    write(train, range(5), out / "first.npz")
    write(train, range(5, 10), out / "second.npz")
    write(train, range(5, 10), out / "few.npz", rows)
    write(ns.data.reference(), range(5, 10), out / "heldout.npz")
    fast = ("--precision", "bf16", "--no-progress")
    first, second = out / "pretrained", out / "tuned"
    noiseshift(
        *("train", out / "first.npz", "--out", first, "--width", 64, "--steps", steps, "--noise-dropout", 0, *fast)
    )
    noiseshift(
        *("finetune", first / "model.safetensors", "--data", out / "few.npz", "--out", second),
        *("--part", "all", "--steps", tuning, "--rate", 5e-4, *fast),
    )
    give_estimator(second / "model.safetensors")
    noiseshift(
        *("correct", second / "model.safetensors", "--against", first / "model.safetensors", "--sampler", "em:20"),
        *(
            "--data",
            out / "heldout.npz",
            "--reference",
            out / "second.npz",
            "--samples",
            samples,
            "--nag",
            1,
            "--cfg",
            1,
        ),
        *("--method", "dog=1", "--method", "dog=1,nag=1", "--method", "projection"),
        *("--estimator", "network,residual", "--out", out / "correct", *fast),
    )


if __name__ == "__main__":
    main()
