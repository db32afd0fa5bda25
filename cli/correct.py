"""`noiseshift correct`: what corrections do to the shift, to quality and to the cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from noiseshift.cli import options, parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.inputs import extractor_for, read_images, real_images_for, reference_for
from noiseshift.cli.saving import save_with_page
from noiseshift.cli.terminal import command_line, progress_bar

from noiseshift.correction.words import WORDS as METHODS
from noiseshift.diffusion.words import SOLVERS

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.data import Images
    from noiseshift.studies.outcomes import Correction
    from noiseshift.studies.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Given(options.DeviceOptions, options.DataOptions):
    """What `correct` was given."""

    source: options.Source
    sampler: Any
    samples: int
    measured: int
    nag: tuple[float, ...]
    cfg: tuple[float, ...] | None
    methods: tuple[Any, ...]
    against: str | None
    estimators: dict[str, int | None] | None
    strict: bool
    extractor: str | None
    weights: str | None
    reference: str | None
    small: bool
    batch: int
    exact: bool
    dry_run: bool
    out: str | None
    as_json: bool

    def trust(self) -> bool:
        """Whether code in files may run."""
        return bool(self.source.given.get("trust"))

    def protocol(self, loaded: Checkpoint, held_out: Images) -> Protocol:
        """What decides the numbers, beside the methods."""
        from noiseshift.studies.protocol import Protocol
        from noiseshift.studies.readers import available

        return Protocol(
            self.sampler,
            samples=self.samples,
            estimators=self.estimators or available(loaded, held_out, ("network", "constant-pixel")),
            batch=self.batch,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        ).bound(loaded)


@click.command()
@options.checkpoint_options
@options.device_options
@click.option("--sampler", type=parse.SOLVER, default="em:20", show_default=True, help=SOLVERS)
@click.option("--samples", type=ranges.SAMPLES, default=512, show_default=True, help="5,000 and more for a paper.")
@click.option("--measured", type=ranges.SAMPLES, default=256, show_default=True, help="Samples that are read.")
@click.option("--nag", type=parse.NUMBERS, default="0.5,1,2", show_default=True, help="NAG scales; 0 = unguided.")
@click.option("--cfg", type=parse.NUMBERS, help="CFG scales; each is also combined with every --nag scale.")
@click.option(
    "--method",
    "methods",
    type=parse.METHOD,
    multiple=True,
    help=f"More methods, each its own option: {METHODS}",
)
@click.option("--against", type=click.Path(), help="Pretrained or weaker checkpoint for dog= and autoguidance=.")
@click.option(
    "--estimator",
    "estimators",
    type=parse.ESTIMATOR,
    help="By default network and constant-pixel, or those that are available.",
)
@options.data_options
@options.strict_option
@click.option(
    "--extractor",
    help=f"{parse.EXTRACTORS}; by default fashion, and effnet-lite0 for pictures in colour (extra effnet).",
)
@click.option("--weights", type=click.Path(exists=True), help="Weights of inception or clip; fetched by default.")
@click.option("--reference", type=click.Path(), help="Statistics (.npz) or images; the training set's by default.")
@click.option("--small", is_flag=True, help="Allow no more samples than features.")
@click.option("--batch", type=ranges.BATCH, default=256, show_default=True)
@click.option("--exact", is_flag=True, help="Instead, run the methods on exact models and print the table.")
@dry_run_option
@click.option("--out", type=click.Path(), help=places.FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
@options.taking(Given)
def command(given: Given) -> None:
    """Does noise awareness guidance remove CHECKPOINT's noise shift, at which scale and cost, and what does FID do?

    Every method draws the same samples from the same seeds; differences are paired. Scale 0 = unguided. Level projection
    corrects the effective noise level and does nothing else: what a method gains beyond it need not be due to the shift.

    \b
    noiseshift correct
    noiseshift correct --sampler euler:20 --nag 0.5,1 --cfg 0.5 --method projection --method level-nag=1
    noiseshift correct fashion-ddpm --sampler ddpm:50 --samples 5000
    noiseshift correct tuned.safetensors --against pretrained.safetensors --cfg 1 --method dog=1 --method dog=1,nag=0.5
    noiseshift correct --exact --sampler em:20 --method projection
    """
    places.folder(given.out, "correct")
    from noiseshift.correction.methods import each_once

    chosen = each_once([*parse.guided_methods(given.nag, given.cfg or ()), *given.methods])
    if given.exact:
        _exact(given, chosen)
    else:
        _correct(given, chosen)


def _correct(given: Given, chosen: list[Any]) -> None:
    """The methods on a checkpoint."""
    from noiseshift.analysis.correct import save_figures

    from noiseshift import distributed
    from noiseshift.checkpoints import load
    from noiseshift.correction.methods import unguided
    from noiseshift.evaluation import load_reference
    from noiseshift.studies.correct import fingerprint, run, shards_of
    from noiseshift.studies.cost_of_studies import correction_cost
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.kept_parts import kept_of_correction
    from noiseshift.writing import claimed, jointly

    loaded = given.source.load()
    held_out = real_images_for(loaded, given.data, given.limits, "a correction is judged by real data")
    extractor = extractor_for(held_out, given.extractor)
    compared_with = reference_for([loaded], given.reference, extractor)
    features_by = parse.parse_extractor(extractor, given.weights, given.device, trust=given.trust())
    real = load_reference(compared_with, features_by, limits=given.limits)
    protocol = given.protocol(loaded, held_out)
    if given.dry_run:
        cost = correction_cost(loaded, protocol, chosen, len(held_out), given.measured, features_by)
        cost = cost.without(kept_of_correction(loaded, protocol, held_out))
        print_cost(cost, given.as_json, figures=4)
        return
    other = None if given.against is None else load(given.against, trust=given.trust())
    about = fingerprint(loaded, protocol, held_out, features_by, given.measured, other)
    described = {method.name: method.describe() for method in (unguided(), *chosen)}
    folder = places.run_folder(given.out, "correct", run_name(about | {"methods": described}, "correct"))
    with jointly(claimed(folder, "correct")):
        shards = shards_of(folder, about, chosen)
        with progress_bar(given.progress) as update:
            found = run(
                loaded,
                protocol,
                chosen,
                held_out,
                features_by,
                real,
                measured=given.measured,
                against=other,
                small=given.small,
                strict=given.strict,
                shards=shards,
                progress=update,
            )
        if distributed.joined()[0]:
            return  # the first process writes
        found.manifest["command"] = command_line()
        figures = save_with_page(found, folder, "correct", save_figures)
        for each in shards.values():
            each.clear()
    _say(found, folder, len(figures), given.as_json)


def _say(found: Correction, folder: Path, figures: int, as_json: bool) -> None:
    from noiseshift.analysis.correct import print_correction

    if as_json:
        table = json.loads(found.table().to_json(orient="records"))
        words = json.dumps({"run": found.manifest, "methods": table, "chosen": found.chosen()}, default=str)
        streams.answered(words, folder)
    else:
        print_correction(found)
        streams.written(folder, f"/ (report.html, run.json, methods.csv, shift-*.csv, {figures} figures)")


def _exact(given: Given, chosen: list[Any]) -> None:
    """The methods on exact models, printed. Raises UsageError for --out and --dry-run."""
    if given.out is not None:
        raise click.UsageError("--exact prints its table and takes no --out: write --json > FILE")
    if given.dry_run:
        raise click.UsageError("--exact asks no network, so there is nothing to count: leave --dry-run out")
    import pandas as pd

    from noiseshift.correction.methods import unguided
    from noiseshift.studies.correct_exact import correct_exact, fields, mixture, power_law
    from noiseshift.studies.correct_exact import images as image_case

    pictures = read_images(None if given.data == "bundled" else given.data, given.limits)[:500].floats
    cases = (power_law(), fields(), mixture(), image_case(pictures))
    methods = [unguided(), *chosen]
    with progress_bar(given.progress) as update:
        tables = [
            correct_exact(case, given.sampler, methods, paths=256, seed=given.seed, progress=update) for case in cases
        ]
    frame = pd.concat(tables, ignore_index=True)
    if given.as_json:
        click.echo(frame.to_json(orient="records"))
    else:
        click.echo(frame.to_string(index=False, float_format=lambda v: f"{v:+.4f}" if abs(v) < 0.1 else f"{v:.3f}"))
