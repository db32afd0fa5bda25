"""`noiseshift evaluate`: distances between samples and real images."""

from __future__ import annotations

from typing import Any

import click
from noiseshift.cli import parse, ranges
from noiseshift.cli.inputs import extractor_for, read_images
from noiseshift.cli.options import range_option
from noiseshift.cli.terminal import progress_bar


@click.command()
@click.argument("samples", type=click.Path())
@click.option(
    "--reference", type=click.Path(), help="Statistics or real images; Fashion-MNIST's held-out ones by default."
)
@range_option
@click.option(
    "--extractor",
    help=f"{parse.EXTRACTORS}; by default fashion, and effnet-lite0 for pictures in colour (extra effnet).",
)
@click.option(
    "--trust", is_flag=True, help="Run the code in a file (TorchScript, pickles): only for one that you made yourself."
)
@click.option("--weights", type=click.Path(exists=True), help="Weights of inception or clip; fetched by default.")
@click.option("--batch", type=ranges.BATCH, default=256, show_default=True)
@click.option("--device", type=parse.DEVICE, default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=ranges.SEED, default=0, show_default=True)
@click.option("--small", is_flag=True, help="Allow no more samples than features.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of a table.")
@click.option("--progress/--no-progress", default=True, help="Progress bar on stderr.")
def command(
    samples: str,
    reference: str | None,
    limits: Any,
    extractor: str | None,
    trust: bool,
    weights: str | None,
    batch: int,
    device: str,
    seed: int,
    small: bool,
    as_json: bool,
    progress: bool,
) -> None:
    """Distance of SAMPLES (.npz or a folder of pictures) to real images, with 95 % intervals.

    FID is what Inception-v3 sees; any other extractor's distance is FD-<its name>. Statistics (mu, sigma) give the
    distance alone; real images also give KD, precision, recall, density and coverage.

    \b
    noiseshift sample --samples 2000 --out samples.npz
    noiseshift evaluate samples.npz
    noiseshift evaluate samples.npz --extractor wavelet-packets
    noiseshift evaluate samples.npz --extractor inception --reference VIRTUAL_imagenet256_labeled.npz
    """
    from noiseshift import data as sets
    from noiseshift.evaluation import evaluate, extract, load_reference, require_enough, require_width, seen_by

    _require_reference(extractor, reference)
    images = read_images(samples, limits)
    chosen = extractor_for(images, extractor)
    _require_reference(chosen, reference)
    features_by = parse.parse_extractor(chosen, weights, device, trust=trust)
    pictures = seen_by(features_by, images)
    first = extract(pictures[:1], features_by)
    with progress_bar(progress) as update:
        real = (
            load_reference(reference, features_by, limits=limits)
            if reference
            else extract(sets.reference().pixels, features_by)
        )
        require_width(first, real)
        if not small:
            require_enough(len(pictures), real)
        features = extract(
            pictures, features_by, batch=batch, progress=lambda done, total: update("features", done, total)
        )
    table = evaluate(features, real, seed=seed, allow_small=small)
    click.echo(table.to_json(orient="records") if as_json else table.to_string(index=False, float_format="%.4f"))


def _require_reference(extractor: str | None, reference: str | None) -> None:
    """Raise UsageError where the bundled images are none to compare with."""
    if reference is None and extractor not in (None, "fashion", "wavelet-packets"):
        raise click.UsageError(f"--extractor {extractor} needs --reference: statistics or real images")
