"""`noiseshift finetune`: teach a checkpoint its noise-unconditional branch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from noiseshift.cli import places, ranges, streams
from noiseshift.cli.costs import print_trial, training_dry_run_option
from noiseshift.cli.inputs import BUNDLED_DATA, real_images_for
from noiseshift.cli.options import Source, checkpoint_options, device_options, range_option, training_options
from noiseshift.cli.terminal import progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Card


@click.command()
@checkpoint_options
@training_options
@device_options
@click.option(
    "--data",
    type=click.Path(),
    help="Labelled training images; `bundled`: the 2,000 Fashion-MNIST ones, the default of the bundled checkpoints.",
)
@range_option
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
def command(
    source: Source,
    out: Path,
    restart: bool,
    batch: int,
    noise_dropout: float,
    class_dropout: float,
    ema: float,
    seed: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    progress: bool,
    data: str | None,
    limits: Any,
    part: Literal["all", "null"],
    steps: int,
    dry_run: bool,
    rate: float | None,
) -> None:
    """Enable noise awareness guidance on CHECKPOINT, which never saw noise dropout, by a short training.

    A tenth of the images is held out; the loss on them is reported before and after. `--part null` trains the null
    embedding alone: the conditional branch stays what it was.

    \b
    noiseshift finetune model.pt --family sit --data train/ --out runs/aware
    noiseshift correct runs/aware/model.safetensors --data heldout/ --nag 0.5,1
    """
    places.training(out, "finetune", restart=restart)
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.training import save_pictures

    from noiseshift import distributed
    from noiseshift.checkpoints.saving import save_trained
    from noiseshift.data import for_checkpoint
    from noiseshift.studies.draw import preview
    from noiseshift.training.finetune import finetune
    from noiseshift.training.train import TrainingConfig
    from noiseshift.writing import claimed, jointly

    loaded = source.load()
    found_images = real_images_for(loaded, data, limits, "a training takes real data", "train")
    read = for_checkpoint(found_images, loaded.classes, loaded.card.class_names)
    images = loaded.encode(read)
    tenth = max(1, len(images) // 10)
    config = TrainingConfig(
        steps,
        batch,
        rate or (2e-4 if part == "all" else 1e-2),
        ema=ema,
        noise_dropout=noise_dropout,
        class_dropout=class_dropout,
        precision=precision,
        seed=seed,
    )
    if dry_run:
        print_trial(partial(finetune, loaded, images[tenth:], images[:tenth], config, part=part, device=device), steps)
        return
    with jointly(claimed(out, "finetune", adding=True)):
        with progress_bar(progress) as update:
            found = finetune(
                loaded,
                images[tenth:],
                images[:tenth],
                config,
                out,
                part=part,
                device=device,
                restart=restart,
                report=lambda step, loss: update(f"fine-tuning, loss {loss:.3f}", step + 1, steps),
            )
        if distributed.joined()[0]:
            return  # the first process writes
        path = save_trained(out / "model.safetensors", found.state, _card(loaded.card, data))
        with spared("a picture of the training"):
            save_pictures(*preview(path), out)
    with spared("what the loss became"):
        click.echo(
            f"noise-conditional:   loss {found.conditional_before:.4f} before, {found.conditional_after:.4f} after"
        )
        click.echo(
            f"noise-unconditional: loss {found.unconditional_before:.4f} before, {found.unconditional_after:.4f} after"
        )
    streams.written(path, " and its card, loss.png, samples.png")


def _card(card: Card, data: str | None) -> Card:
    """The card without the estimator, and without the name of the data where they were others."""
    return replace(
        card, estimator=None, data=card.data if data is None else BUNDLED_DATA if data == "bundled" else None
    )
