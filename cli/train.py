"""`noiseshift train`: a class-conditional transformer with noise-condition dropout, from scratch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from noiseshift.cli import places, ranges, streams
from noiseshift.cli.costs import print_trial, training_dry_run_option
from noiseshift.cli.inputs import read_images
from noiseshift.cli.options import device_options, range_option, training_options
from noiseshift.cli.terminal import progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Card
    from noiseshift.training.train import Objective


@click.command()
@click.argument("data", required=False)
@training_options
@range_option
@device_options
@click.option("--family", type=click.Choice(["sit", "dit"]), default="sit", show_default=True, help="Flow or DDPM.")
@click.option("--width", type=click.IntRange(16, 16_384), default=128, show_default=True)
@click.option("--depth", type=click.IntRange(1, 1_000), default=6, show_default=True)
@click.option("--heads", type=click.IntRange(1, 1_024), default=4, show_default=True)
@click.option("--patch", type=click.IntRange(1, 1_024), default=4, show_default=True)
@click.option("--steps", type=ranges.STEPS, default=10_000, show_default=True)
@training_dry_run_option
@click.option("--rate", type=ranges.RATE, default=2e-3, show_default=True, help="Learning rate of the plateau.")
def command(
    data: str | None,
    out: Path,
    limits: Any,
    batch: int,
    restart: bool,
    noise_dropout: float,
    class_dropout: float,
    ema: float,
    seed: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    progress: bool,
    family: str,
    width: int,
    depth: int,
    heads: int,
    patch: int,
    steps: int,
    dry_run: bool,
    rate: float,
) -> None:
    """Train on DATA: a folder of pictures (class = sub-folder), an .npz or MNIST-style files; the 2,000 bundled images
    when left out. Interrupted trainings go on where they stopped.

    \b
    noiseshift train pictures/ --out runs/mine --steps 20000 --device cuda --precision bf16
    noiseshift measure runs/mine/model.safetensors --data heldout/ --estimator residual
    """
    places.training(out, "train", restart=restart)
    import torch
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.training import save_pictures

    from noiseshift import distributed
    from noiseshift.checkpoints.saving import save_trained
    from noiseshift.networks.transformer import Transformer, TransformerConfig
    from noiseshift.studies.draw import preview
    from noiseshift.training.room import require_room
    from noiseshift.training.train import TrainingConfig, train
    from noiseshift.writing import claimed, jointly

    images = read_images(data, limits, "train")
    channels, height, side = images.pixels.shape[1:]
    if images.labels is None or height != side or side % patch or width % heads:
        raise ValueError(
            "training needs labelled square pictures, a side that --patch divides and heads that divide width"
        )
    classes = int(images.labels.max()) + 1
    # Without class dropout no row of the class embedding is the null class, which only the card can say.
    card = _card(family, heads, None if class_dropout else classes)
    dropped = {"class_dropout": class_dropout > 0, "noise_dropout": noise_dropout > 0}
    shape = TransformerConfig(side, channels, patch, width, depth, heads, classes, channels, **dropped)
    require_room(shape, images, batch, device)
    torch.manual_seed(seed)
    network = Transformer(shape)
    config = TrainingConfig(
        steps,
        batch,
        rate,
        ema=ema,
        noise_dropout=noise_dropout,
        class_dropout=class_dropout,
        precision=precision,
        seed=seed,
    )
    objective = _objective(card)
    if dry_run:
        print_trial(partial(train, network, objective, images, config, device=device), steps)
        return
    with jointly(claimed(out, "train", adding=True)):
        with progress_bar(progress) as update:
            state = train(
                network,
                objective,
                images,
                config,
                out,
                device=device,
                restart=restart,
                report=lambda step, loss: update(f"training, loss {loss:.3f}", step + 1, steps),
            )
        if distributed.joined()[0]:
            return  # the first process writes
        path = save_trained(out / "model.safetensors", state, card)
        with spared("a picture of the training"):
            save_pictures(*preview(path), out)
    streams.written(path, " and its card, loss.png, samples.png")


def _objective(card: Card) -> Objective:
    """What the network of a card's family learns, and is given as its time."""
    from noiseshift.checkpoints.formats.rebuilt import time_input
    from noiseshift.training.train import Objective

    schedule = card.build_schedule()
    return Objective(schedule, "velocity" if card.family == "sit" else "epsilon", time_input(card.time, schedule))


def _card(family: str, heads: int, classes: int | None) -> Card:
    from noiseshift.checkpoints import Card

    offset = 0.0 if family == "sit" else -1.0
    time = {"zero": "data", "scale": 1000.0, "offset": offset}
    return Card.from_dict({"family": family, "time": time, "heads": heads, "classes": classes})
