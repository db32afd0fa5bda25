"""`noiseshift train-estimator`: the level network for a data set and schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
from noiseshift.analysis.names import plain
from noiseshift.cli import options, places, ranges, streams
from noiseshift.cli.costs import print_trial, training_dry_run_option
from noiseshift.cli.inputs import read_images
from noiseshift.cli.terminal import progress_bar


@dataclass(frozen=True, kw_only=True)
class Given(options.DeviceOptions, options.DataOptions):
    """What `train-estimator` was given."""

    source: options.Source
    out: Path | None
    overwrite: bool
    steps: int
    batch: int
    dry_run: bool
    restart: bool


@click.command()
@options.checkpoint_options
@options.device_options
@click.option(
    "--data", type=click.Path(exists=True), required=True, help="Real training images, not the held-out ones."
)
@options.range_option
@click.option("--out", type=click.Path(path_type=Path), help="File; <checkpoint>-estimator.safetensors by default.")
@places.OVERWRITE
@click.option("--steps", type=ranges.STEPS, default=4000, show_default=True)
@click.option("--batch", type=ranges.BATCH, default=128, show_default=True)
@training_dry_run_option
@options.restart_option
@options.taking(Given)
def command(given: Given) -> None:
    """Train the network estimator of p(t | x) on real images, for CHECKPOINT's schedule.

    The file lies beside the checkpoint; name it in the card (`estimator: FILE`) and `measure` uses it.

    \b
    noiseshift train-estimator model.pt --family sit --data train/
    """
    from noiseshift.writing.signatures import signed_estimator

    places.file(given.out, signed_estimator, overwrite=given.overwrite)
    from noiseshift import distributed
    from noiseshift.training.level_estimator import EstimatorTraining, train_estimator
    from noiseshift.writing import claimed_file, jointly

    loaded = given.source.load()
    config = replace(
        EstimatorTraining(), steps=given.steps, batch=given.batch, precision=given.precision, seed=given.seed
    )
    path = given.out or Path(f"{loaded.name}-estimator.safetensors")
    places.file(path, signed_estimator, overwrite=given.overwrite)

    if given.dry_run:
        images = loaded.encode(read_images(given.data, given.limits, "train"))
        train = partial(train_estimator, images, loaded.model.schedule, config, device=given.device)
        print_trial(lambda folder, *, report: train(folder=folder, report=report), given.steps)
        return
    folder = path.parent / f".{path.name}.training"
    with jointly(claimed_file(path, signed_estimator, overwrite=given.overwrite)):
        with progress_bar(given.progress) as update:
            network = train_estimator(
                loaded.encode(read_images(given.data, given.limits, "train")),
                loaded.model.schedule,
                config,
                folder=folder,
                device=given.device,
                restart=given.restart,
                report=lambda step, loss: update(f"training, loss {loss:.3f}", step + 1, given.steps),
            )
        if distributed.joined()[0]:
            return  # the first process writes
        network.save(path, overwrite=given.overwrite)
    streams.written(path, f"; put it beside the checkpoint and add to its card: estimator: {plain(path.name)}")
