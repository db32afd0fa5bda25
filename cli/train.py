"""`noiseshift train`: a class-conditional transformer with noise-condition dropout, from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click
from noiseshift.cli import options, places, ranges, streams
from noiseshift.cli.costs import print_trial, training_dry_run_option
from noiseshift.cli.inputs import read_images
from noiseshift.cli.saving import save_network
from noiseshift.cli.terminal import progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Card
    from noiseshift.data import Images
    from noiseshift.networks.transformer import TransformerConfig
    from noiseshift.training.train import Objective


@dataclass(frozen=True, kw_only=True)
class Given(options.TrainingOptions, options.DataOptions):
    """What `train` was given."""

    family: str
    width: int
    depth: int
    heads: int
    patch: int
    steps: int
    dry_run: bool
    rate: float

    def shape(self, images: Images) -> TransformerConfig:
        """Of the network that these images train. Raises ValueError where there is none."""
        from noiseshift.networks.transformer import TransformerConfig

        channels, height, side = images.pixels.shape[1:]
        if images.labels is None or height != side or side % self.patch or self.width % self.heads:
            raise ValueError(
                "training needs labelled square pictures, a side that --patch divides and heads that divide width"
            )
        return TransformerConfig(
            side,
            channels,
            self.patch,
            self.width,
            self.depth,
            self.heads,
            int(images.labels.max()) + 1,
            channels,
            class_dropout=self.class_dropout > 0,
            noise_dropout=self.noise_dropout > 0,
        )


@click.command()
@click.argument("data", required=False)
@options.training_options
@options.range_option
@options.device_options
@click.option("--family", type=click.Choice(["sit", "dit"]), default="sit", show_default=True, help="Flow or DDPM.")
@click.option("--width", type=click.IntRange(16, 16_384), default=128, show_default=True)
@click.option("--depth", type=click.IntRange(1, 1_000), default=6, show_default=True)
@click.option("--heads", type=click.IntRange(1, 1_024), default=4, show_default=True)
@click.option("--patch", type=click.IntRange(1, 1_024), default=4, show_default=True)
@click.option("--steps", type=ranges.STEPS, default=10_000, show_default=True)
@training_dry_run_option
@click.option("--rate", type=ranges.RATE, default=2e-3, show_default=True, help="Learning rate of the plateau.")
@options.taking(Given)
def command(given: Given) -> None:
    """Train on DATA: a folder of pictures (class = sub-folder), an .npz or MNIST-style files; the 2,000 bundled images
    when left out. Interrupted trainings go on where they stopped.

    \b
    noiseshift train pictures/ --out runs/mine --steps 20000 --device cuda --precision bf16
    noiseshift measure runs/mine/model.safetensors --data heldout/ --estimator residual
    """
    places.training(given.out, "train", restart=given.restart)
    import torch

    from noiseshift import distributed
    from noiseshift.networks.transformer import Transformer
    from noiseshift.training.room import require_room
    from noiseshift.training.train import train
    from noiseshift.writing import claimed, jointly

    images = read_images(given.data, given.limits, "train")
    shape = given.shape(images)
    card = _card(given, shape.classes)
    require_room(shape, images, given.batch, given.device)
    torch.manual_seed(given.seed)
    network = Transformer(shape)
    objective = _objective(card)
    config = given.config(given.steps, given.rate)
    begin = partial(train, network, objective, images, config, device=given.device)
    if given.dry_run:
        print_trial(begin, given.steps)
        return
    with jointly(claimed(given.out, "train", adding=True)):
        with progress_bar(given.progress) as update:
            state = begin(
                given.out,
                restart=given.restart,
                report=lambda step, loss: update(f"training, loss {loss:.3f}", step + 1, given.steps),
            )
        if distributed.joined()[0]:
            return  # the first process writes
        path = save_network(given.out, state, card)
    streams.written(path, " and its card, loss.png, samples.png")


def _objective(card: Card) -> Objective:
    """What the network of a card's family learns, and is given as its time."""
    from noiseshift.checkpoints.formats.rebuilt import time_input
    from noiseshift.training.train import Objective

    schedule = card.build_schedule()
    return Objective(schedule, "velocity" if card.family == "sit" else "epsilon", time_input(card.time, schedule))


def _card(given: Given, classes: int) -> Card:
    """How the network will be read. Without class dropout no row of the class embedding is the null class, which only the
    card can say."""
    from noiseshift.checkpoints import Card

    offset = 0.0 if given.family == "sit" else -1.0
    time = {"zero": "data", "scale": 1000.0, "offset": offset}
    known = None if given.class_dropout else classes
    return Card.from_dict({"family": given.family, "time": time, "heads": given.heads, "classes": known})
