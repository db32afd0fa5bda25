"""`noiseshift finetune`: teach a checkpoint its noise-unconditional branch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import click
from noiseshift.cli import options, places, ranges, streams
from noiseshift.cli.costs import print_trial, training_dry_run_option
from noiseshift.cli.inputs import BUNDLED_DATA, real_images_for
from noiseshift.cli.saving import save_network
from noiseshift.cli.terminal import progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Card, Checkpoint
    from noiseshift.data import Images
    from noiseshift.training.finetune import Finetuned


@dataclass(frozen=True, kw_only=True)
class Given(options.TrainingOptions, options.DataOptions):
    """What `finetune` was given."""

    source: options.Source
    part: Literal["all", "null"]
    steps: int
    dry_run: bool
    rate: float | None


@click.command()
@options.checkpoint_options
@options.training_options
@options.device_options
@click.option(
    "--data",
    type=click.Path(),
    help="Labelled training images; `bundled`: the 2,000 Fashion-MNIST ones, the default of the bundled checkpoints.",
)
@options.range_option
@click.option("--part", type=click.Choice(["all", "null"]), default="all", show_default=True, help="What is trained.")
@click.option(
    "--steps",
    type=ranges.STEPS,
    default=200,
    show_default=True,
    help="How long; the paper takes 0.7 % of the training.",
)
@training_dry_run_option
@click.option("--rate", type=ranges.RATE, help="Learning rate; 2e-4 for all, 1e-2 for the null embedding, by default.")
@options.taking(Given)
def command(given: Given) -> None:
    """Enable noise awareness guidance on CHECKPOINT, which never saw noise dropout, by a short training.

    A tenth of the images is held out; the loss on them is reported before and after. `--part null` trains the null
    embedding alone: the conditional branch stays what it was.

    \b
    noiseshift finetune model.pt --family sit --data train/ --out runs/aware
    noiseshift correct runs/aware/model.safetensors --data heldout/ --nag 0.5,1
    """
    places.training(given.out, "finetune", restart=given.restart)
    from noiseshift.analysis.after import spared

    from noiseshift import distributed
    from noiseshift.training.finetune import finetune
    from noiseshift.writing import claimed, jointly

    loaded = given.source.load()
    images = _images(given, loaded)
    tenth = max(1, len(images) // 10)
    config = given.config(given.steps, given.rate or (2e-4 if given.part == "all" else 1e-2))
    begin = partial(finetune, loaded, images[tenth:], images[:tenth], config, part=given.part, device=given.device)
    if given.dry_run:
        print_trial(begin, given.steps)
        return
    with jointly(claimed(given.out, "finetune", adding=True)):
        with progress_bar(given.progress) as update:
            found = begin(
                given.out,
                restart=given.restart,
                report=lambda step, loss: update(f"fine-tuning, loss {loss:.3f}", step + 1, given.steps),
            )
        if distributed.joined()[0]:
            return  # the first process writes
        path = save_network(given.out, found.state, _card(loaded.card, given.data))
    with spared("what the loss became"):
        _say(found)
    streams.written(path, " and its card, loss.png, samples.png")


def _images(given: Given, loaded: Checkpoint) -> Images:
    """The training images, as the checkpoint's states and classes."""
    from noiseshift.data import for_checkpoint

    found = real_images_for(loaded, given.data, given.limits, "a training takes real data", "train")
    return loaded.encode(for_checkpoint(found, loaded.classes, loaded.card.class_names))


def _say(found: Finetuned) -> None:
    """What the loss was on the held-out images, and what it became."""
    click.echo(f"noise-conditional:   loss {found.conditional_before:.4f} before, {found.conditional_after:.4f} after")
    click.echo(
        f"noise-unconditional: loss {found.unconditional_before:.4f} before, {found.unconditional_after:.4f} after"
    )


def _card(card: Card, data: str | None) -> Card:
    """The card without the estimator, and without the name of the data where they were others."""
    return replace(
        card, estimator=None, data=card.data if data is None else BUNDLED_DATA if data == "bundled" else None
    )
