"""Train the level estimators of the bundled checkpoints, on Fashion-MNIST training images.

    python benchmarks/assets/train_estimators.py sit  --out runs/estimator-sit
    python benchmarks/assets/train_estimators.py ddpm --out runs/estimator-ddpm

Resumes from `--out`; writes `noiseshift/assets/fashion-<which>-estimator.safetensors` and prints bias and rms error on
the bundled held-out images.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from rich.progress import Progress, TextColumn

from noiseshift.data import ASSETS, Images, load_idx, reference
from noiseshift.estimators.network import EstimatorTraining, Network, train_estimator
from noiseshift.schedules import Discrete, Linear, Schedule

SCHEDULES = {"sit": Linear, "ddpm": Discrete.from_betas}
COLUMNS = (*Progress.get_default_columns(), TextColumn("{task.fields[loss]:.3f}"))


def check(network: Network, schedule: Schedule, images: Images) -> dict[float, tuple[float, float]]:
    """Bias and rms error of the posterior mean on held-out images at known times."""
    generator, found = torch.Generator().manual_seed(0), {}
    for t in (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02):
        x0 = images.floats
        level = schedule(torch.tensor(t)).like(x0)
        x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator)
        error = torch.cat([network(rows).mean for rows in x.split(250)]) - t
        found[t] = (round(float(error.mean()), 5), round(float(error.square().mean().sqrt()), 5))
    return found


@click.command()
@click.argument("which", type=click.Choice(list(SCHEDULES)))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--steps", default=5000, show_default=True)
@click.option("--width", default=16, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
def main(which: str, out: Path, data: str, steps: int, width: int, threads: int, precision: str) -> None:
    torch.set_num_threads(threads)
    schedule = SCHEDULES[which]()
    config = EstimatorTraining(steps=steps, width=width, precision=precision)
    with Progress(*COLUMNS) as bar:
        task = bar.add_task(which, total=steps, loss=float("nan"))
        network = train_estimator(
            load_idx(data, "train"),
            schedule,
            config,
            folder=out,
            report=lambda step, loss: bar.update(task, completed=step + 1, loss=loss),
        )
    errors = check(network, schedule, reference())
    network.card |= {"data": "Fashion-MNIST, 60,000 training images (MIT)", "bias and rms error in t": errors}
    network.save(ASSETS / f"fashion-{which}-estimator.safetensors")
    for t, (bias, rms) in errors.items():
        click.echo(f"t = {t:4.2f}: bias {bias:+.4f}, rms error {rms:.4f}")


if __name__ == "__main__":
    main()
