"""Train the level estimators of the bundled checkpoints, on Fashion-MNIST training images.

    python benchmarks/assets/train_estimators.py sit  --out runs/estimator-sit
    python benchmarks/assets/train_estimators.py ddpm --out runs/estimator-ddpm

The data are Debian's package `dataset-fashion-mnist` (MIT). Resumes from `--out`, so a finished training is only
measured and packed again; about six minutes of one CPU core. Writes `fashion-<which>-estimator.safetensors` and its
card to `noiseshift/assets`, and prints how it reads the bundled held-out images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import click
import pandas as pd
import torch
from provenance import card, write_card
from rich.progress import Progress, TextColumn

from noiseshift.data import ASSETS, Images, load_idx, reference
from noiseshift.diffusion.schedules import Discrete, Linear
from noiseshift.estimators.network import Network
from noiseshift.training.level_estimator import EstimatorTraining, train_estimator

SCHEDULES = {"sit": Linear, "ddpm": Discrete.from_betas}
TIMES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
COLUMNS = (*Progress.get_default_columns(), TextColumn("{task.fields[loss]:.3f}"))


def check(estimator: Network, images: Images, times: tuple[float, ...] = TIMES) -> pd.DataFrame:
    """How the posterior reads images noised to known times: bias, rms error and median absolute error of its mean, the
    sd it claims (root mean square), and the rms error in units of it."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for t in times:
        x0 = images.floats
        x = estimator.schedule(torch.tensor(t)).mix(x0, torch.randn(x0.shape, generator=generator))
        read = [estimator(part) for part in x.split(250)]
        error = torch.cat([posterior.mean for posterior in read]) - t
        sd = torch.cat([posterior.std for posterior in read])
        rows.append(
            {
                "t": t,
                "bias": float(error.mean()),
                "rms error": float(error.square().mean().sqrt()),
                "median error": float(error.abs().median()),
                "claimed sd": float(sd.square().mean().sqrt()),
                "rms of error / sd": float((error / sd).square().mean().sqrt()),
            }
        )
    return pd.DataFrame(rows).set_index("t").round(5)


@click.command()
@click.argument("which", type=click.Choice(list(SCHEDULES)))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--steps", default=5000, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
def main(
    which: str, out: Path, data: str, steps: int, threads: int, device: str, precision: Literal["fp32", "bf16"]
) -> None:
    torch.set_num_threads(threads)
    config = replace(EstimatorTraining(), steps=steps, precision=precision)
    with Progress(*COLUMNS) as bar:
        task = bar.add_task(which, total=steps, loss=float("nan"))
        estimator = train_estimator(
            load_idx(data, "train"),
            SCHEDULES[which](),
            config,
            folder=out,
            device=device,
            report=lambda step, loss: bar.update(task, completed=step + 1, loss=loss),
        )
    weights = ASSETS / f"fashion-{which}-estimator.safetensors"
    estimator.save(weights)
    table = check(Network.load(weights), reference())  # as it was stored, in half precision
    command = f"python benchmarks/assets/train_estimators.py {which} --steps {steps}"
    what = f"the level estimator of fashion-{which}: a mixture over log-SNR, under a flat prior on t"
    measured = {"on": "the 2,000 images of fashion-heldout", **table.to_dict("index")}
    estimator.card |= card(what, "training split", command, measured)
    estimator.save(weights)
    write_card(weights, estimator.card)
    click.echo(table.to_string())


if __name__ == "__main__":
    main()
