"""`noiseshift measure`: the main job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from noiseshift.cli import options, parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.inputs import images_for
from noiseshift.cli.saving import save_with_page
from noiseshift.cli.terminal import command_line, progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.data import Images
    from noiseshift.studies.folders import Run
    from noiseshift.studies.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Given(options.RunOptions, options.DataOptions):
    """What `measure` was given."""

    source: options.Source
    samples: int
    estimators: dict[str, int | None] | None
    points: int
    calibration: int | None
    controls: bool
    bands: bool
    by: Any
    mask: Any
    strict: bool
    dry_run: bool
    out: str | None
    as_json: bool

    def protocol(self, loaded: Checkpoint, held_out: Images | None) -> Protocol:
        """What decides the numbers."""
        from noiseshift.studies.protocol import Protocol
        from noiseshift.studies.readers import available

        return Protocol(
            solver=self.sampler,
            samples=self.samples,
            estimators=self.estimators or available(loaded, held_out),
            guidance=self.guidance,
            points=self.points,
            calibration_rows=self.calibration,
            controls=self.controls,
            bands=self.bands,
            by=self.by,
            mask=self.mask,
            batch=self.batch,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        ).bound(loaded)

    def figures(self) -> int:
        """About how many are drawn."""
        return 6 + self.controls + self.bands + (self.by is not None) + (self.mask is not None)


@click.command()
@options.checkpoint_options
@options.run_options
@click.option("--samples", type=ranges.SAMPLES, default=256, show_default=True)
@click.option(
    "--estimator",
    "estimators",
    type=parse.ESTIMATOR,
    help="network, residual, constant-pixel, fokker-planck, score-mixture, joined by commas; NAME:N reads only the first "
    "N samples. By default those of the first three that are available.",
)
@click.option("--points", type=ranges.POINTS, default=8, show_default=True, help="How many steps are read.")
@options.data_options
@click.option(
    "--calibration",
    type=ranges.CALIBRATION,
    help="Calibrate on at most so many of the real images; by default four per sample, at least 128, of the half that is for it.",
)
@click.option(
    "--controls", is_flag=True, help="Also run the null and known-level controls, step refinement and an exact model."
)
@click.option("--bands", is_flag=True, help="Also read delta by Haar band of the states, off the residual estimator.")
@click.option(
    "--by",
    type=parse.BY,
    help="Also read delta by class, prompt, frame (of videos) or FILE.csv:COLUMN, a table with a column class or prompt.",
)
@click.option("--mask", type=parse.MASK, help="Also read delta in and outside of a region: a picture, white inside.")
@options.strict_option
@dry_run_option
@click.option("--out", type=click.Path(), help=places.FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
@options.taking(Given)
def command(given: Given) -> None:
    """Measure the noise shift of CHECKPOINT: how far the noise in its sampling states is from the conditioning level.

    Without an argument it reads the bundled Fashion-MNIST model. Delta > 0 means noisier than the conditioning level. One test over
    all levels and estimators says whether there is any shift; a level whose own 95 % interval holds 0 is "not resolved".

    \b
    noiseshift measure
    noiseshift measure --sampler em:50 --controls
    noiseshift measure fashion-ddpm --sampler ddpm:50 --guidance nag=0.5
    noiseshift measure model.pt --family sit --data heldout.npz --estimator residual,fokker-planck:32
    noiseshift measure --bands --by class
    noiseshift measure --sampler diffusers/DPMSolverMultistepScheduler:20 --json
    noiseshift measure SiT-XL-2-256x256.pt --family sit --sampler euler:250 --samples 50000 --dry-run
    """
    places.folder(given.out, "measure")
    from noiseshift.analysis.plots import save_figures

    from noiseshift import distributed
    from noiseshift.studies.cost import estimate
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.kept_parts import kept_parts
    from noiseshift.studies.measure import run
    from noiseshift.studies.protocol import fingerprint
    from noiseshift.studies.shards import Shards
    from noiseshift.writing import claimed, jointly

    loaded = given.source.load()
    held_out = images_for([loaded], given.data, given.limits)
    protocol = given.protocol(loaded, held_out)
    if given.dry_run:
        cost = estimate(loaded, protocol, None if held_out is None else len(held_out))
        cost = cost.without(kept_parts(loaded, protocol, held_out))
        print_cost(cost, given.as_json, figures=given.figures())
        return
    about = fingerprint(loaded, protocol, held_out)
    folder = places.run_folder(given.out, "measure", run_name(about))
    with jointly(claimed(folder, "measure")):
        shards = Shards(folder, about)
        with progress_bar(given.progress) as update:
            found = run(loaded, protocol, held_out, shards=shards, strict=given.strict, progress=update)
        if distributed.joined()[0]:
            return  # the first process writes
        found.manifest["command"] = command_line()
        figures = save_with_page(found, folder, "measure", save_figures)
        shards.clear()
    _say(found, folder, len(figures), given.as_json)


def _say(found: Run, folder: Path, figures: int, as_json: bool) -> None:
    from noiseshift.analysis.tables import print_run

    if as_json:
        streams.answered(json.dumps(found.summary(), default=str), folder)
    else:
        print_run(found)
        streams.written(folder, f"/ (report.html, run.json, shift.parquet, summary.json, {figures} figures)")
