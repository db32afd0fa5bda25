"""`noiseshift sample`: draw samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from noiseshift.cli import options, places, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.terminal import progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.studies.protocol import Protocol

SUFFIXES = (".png", ".npz")


@dataclass(frozen=True, kw_only=True)
class Given(options.RunOptions):
    """What `sample` was given."""

    source: options.Source
    samples: int
    out: Path | None
    overwrite: bool
    dry_run: bool

    def protocol(self) -> Protocol:
        """What decides the samples."""
        from noiseshift.studies.protocol import Protocol

        return Protocol(
            self.sampler,
            samples=self.samples,
            guidance=self.guidance,
            batch=self.batch,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )


@click.command()
@options.checkpoint_options
@options.run_options
@click.option("--samples", type=click.IntRange(1, 10_000_000), default=64, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=".png or .npz; <checkpoint>-<sampler>-<guidance>-<seed>-<hash>.png by default. Samples of noiseshift are replaced.",
)
@places.OVERWRITE
@dry_run_option
@options.taking(Given)
def command(given: Given) -> None:
    """Draw samples from CHECKPOINT (the bundled model by default) into a picture, or an .npz as ADM's evaluator reads it.

    Sample i depends on the seed and on i alone, and is of class i mod classes.

    \b
    noiseshift sample --sampler heun:25 --out samples.png
    noiseshift sample fashion-ddpm --sampler ddpm:250 --samples 2000 --out samples.npz
    """
    from noiseshift.writing.signatures import signed_samples

    places.file(given.out, signed_samples, overwrite=given.overwrite, suffixes=SUFFIXES)
    from noiseshift.analysis.samples import save_samples

    from noiseshift import distributed
    from noiseshift.studies.draw import draw
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.protocol import fingerprint
    from noiseshift.studies.shards import Shards
    from noiseshift.writing import claimed_file, jointly

    loaded = given.source.load()
    protocol = given.protocol()
    if given.dry_run:
        from noiseshift.studies.cost_of_studies import sampling_cost

        print_cost(sampling_cost(loaded, protocol))
        return
    about = fingerprint(loaded, protocol)
    out = given.out or Path(run_name(about) + (".png" if _are_pictures(loaded) else ".npz"))
    if out.suffix == ".png" and not _are_pictures(loaded):
        raise click.UsageError(f"samples of shape {loaded.shape} are no pictures: give --out FILE.npz")
    places.file(out, signed_samples, overwrite=given.overwrite, suffixes=SUFFIXES)
    with jointly(claimed_file(out, signed_samples, overwrite=given.overwrite)):
        shards = Shards(out, about)
        with progress_bar(given.progress) as update:
            pictures, labels = draw(loaded, protocol, shards=shards, progress=update)
        if distributed.joined()[0]:
            return  # the first process writes
        save_samples(pictures, labels, out, overwrite=given.overwrite)
        shards.clear()
    streams.written(out, f" ({len(pictures)} samples)")


def _are_pictures(loaded: Checkpoint) -> bool:
    """Whether samples can be a picture of them all."""
    return loaded.autoencoder is not None or (len(loaded.shape) == 3 and loaded.shape[0] in (1, 3))
