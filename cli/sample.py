"""`noiseshift sample`: draw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from noiseshift.cli import places, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.options import Source, checkpoint_options, run_options
from noiseshift.cli.terminal import progress_bar

SUFFIXES = (".png", ".npz")


@click.command()
@checkpoint_options
@run_options
@click.option("--samples", type=click.IntRange(1, 10_000_000), default=64, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=".png or .npz; <checkpoint>-<sampler>-<guidance>-<seed>-<hash>.png by default. Samples of noiseshift are replaced.",
)
@places.OVERWRITE
@dry_run_option
def command(
    source: Source,
    sampler: Any,
    guidance: Any,
    seed: int,
    batch: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    progress: bool,
    samples: int,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Draw samples from CHECKPOINT (the bundled model by default) into a picture, or an .npz as ADM's evaluator reads it.

    Sample i depends on the seed and on i alone, and is of class i mod classes.

    \b
    noiseshift sample --sampler heun:25 --out samples.png
    noiseshift sample fashion-ddpm --sampler ddpm:250 --samples 2000 --out samples.npz
    """
    from noiseshift.writing.signatures import signed_samples

    places.file(out, signed_samples, overwrite=overwrite, suffixes=SUFFIXES)
    from noiseshift.analysis.samples import save_samples

    from noiseshift import distributed
    from noiseshift.studies.draw import draw
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.protocol import Protocol, fingerprint
    from noiseshift.studies.shards import Shards
    from noiseshift.writing import claimed_file, jointly

    loaded = source.load()
    protocol = Protocol(
        sampler, samples=samples, guidance=guidance, batch=batch, seed=seed, device=device, precision=precision
    )
    if dry_run:
        from noiseshift.studies.cost_of_studies import sampling_cost

        print_cost(sampling_cost(loaded, protocol))
        return
    about = fingerprint(loaded, protocol)
    are_pictures = loaded.autoencoder is not None or (len(loaded.shape) == 3 and loaded.shape[0] in (1, 3))
    if out is not None and out.suffix == ".png" and not are_pictures:
        raise click.UsageError(f"samples of shape {loaded.shape} are no pictures: give --out FILE.npz")
    out = out or Path(run_name(about) + (".png" if are_pictures else ".npz"))
    places.file(out, signed_samples, overwrite=overwrite, suffixes=SUFFIXES)
    with jointly(claimed_file(out, signed_samples, overwrite=overwrite)):
        shards = Shards(out, about)
        with progress_bar(progress) as update:
            pictures, labels = draw(loaded, protocol, shards=shards, progress=update)
        if distributed.joined()[0]:
            return  # the first process writes
        save_samples(pictures, labels, out, overwrite=overwrite)
        shards.clear()
    streams.written(out, f" ({len(pictures)} samples)")
