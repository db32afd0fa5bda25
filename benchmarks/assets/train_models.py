"""Train the bundled checkpoints: a SiT-style flow model and its DDPM-style sibling, on Fashion-MNIST.

    python benchmarks/assets/train_models.py sit  --out runs/sit  --data /usr/share/datasets/fashion-mnist
    python benchmarks/assets/train_models.py ddpm --out runs/ddpm --data /usr/share/datasets/fashion-mnist

The data are Debian's package `dataset-fashion-mnist` (MIT). Resumes from `--out`; on two CPU cores both take about an
hour side by side, one thread each. `pack_models.py` then writes what the wheel carries.
"""

from __future__ import annotations

import click
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from noiseshift.data import load_idx
from noiseshift.diffusion.schedules import Discrete, Linear
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.training.train import Objective, TrainingConfig, train

OBJECTIVES = {
    "sit": lambda: Objective(Linear(), "velocity", lambda t: 1000 * t),
    "ddpm": lambda: Objective(Discrete.from_betas(), "epsilon", lambda t: (1000 * t).round() - 1),
}


@click.command()
@click.argument("which", type=click.Choice(list(OBJECTIVES)))
@click.option("--out", type=click.Path(), required=True)
@click.option("--data", type=click.Path(exists=True), default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--steps", default=10_000, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=2e-3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
def main(
    which: str, out: str, data: str, steps: int, batch: int, rate: float, threads: int, device: str, precision: str
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Transformer(TransformerConfig())
    config = TrainingConfig(steps=steps, batch=batch, learning_rate=rate, precision=precision)
    bar = Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]:.4f}"),
    )
    with bar:
        task = bar.add_task(which, total=steps, loss=float("nan"))
        train(
            network,
            OBJECTIVES[which](),
            load_idx(data, "train"),
            config,
            out,
            device=device,
            report=lambda step, loss: bar.update(task, completed=step + 1, loss=loss),
        )


if __name__ == "__main__":
    main()
