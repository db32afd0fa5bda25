"""`noiseshift measure`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
from noiseshift.cli import parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.inputs import images_for
from noiseshift.cli.options import Source, checkpoint_options, data_options, run_options, strict_option
from noiseshift.cli.terminal import command_line, progress_bar


@click.command()
@checkpoint_options
@run_options
@click.option("--samples", type=ranges.SAMPLES, default=256, show_default=True)
@click.option(
    "--estimator",
    "estimators",
    type=parse.ESTIMATOR,
    help="network, residual, constant-pixel, fokker-planck, score-mixture, joined by commas; NAME:N reads only the first "
    "N samples. By default those of the first three that are available.",
)
@click.option("--points", type=ranges.POINTS, default=8, show_default=True, help="How many steps are read.")
@data_options
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
@strict_option
@dry_run_option
@click.option("--out", type=click.Path(), help=places.FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
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
    estimators: dict[str, int | None] | None,
    points: int,
    data: str | None,
    limits: Any,
    calibration: int | None,
    controls: bool,
    bands: bool,
    by: Any,
    mask: Any,
    strict: bool,
    dry_run: bool,
    out: str | None,
    as_json: bool,
) -> None:
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
    places.folder(out, "measure")
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.plots import save_figures
    from noiseshift.analysis.report import page
    from noiseshift.analysis.tables import print_run

    from noiseshift import distributed
    from noiseshift.studies.cost import estimate
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.measure import run
    from noiseshift.studies.protocol import Protocol, fingerprint
    from noiseshift.studies.readers import available
    from noiseshift.studies.shards import Shards
    from noiseshift.writing import claimed, jointly, whole_folder, write_text

    loaded = source.load()
    held_out = images_for([loaded], data, limits)
    protocol = Protocol(
        solver=sampler,
        samples=samples,
        estimators=estimators or available(loaded, held_out),
        guidance=guidance,
        points=points,
        calibration_rows=calibration,
        controls=controls,
        bands=bands,
        by=by,
        mask=mask,
        batch=batch,
        seed=seed,
        device=device,
        precision=precision,
    ).bound(loaded)
    if dry_run:
        figures = 6 + controls + bands + (by is not None) + (mask is not None)
        print_cost(estimate(loaded, protocol, None if held_out is None else len(held_out)), as_json, figures=figures)
        return
    about = fingerprint(loaded, protocol, held_out)
    folder = Path(out or f"runs/{run_name(about)}")
    places.folder(folder, "measure")
    with jointly(claimed(folder, "measure")):
        shards = Shards(folder, about)
        with progress_bar(progress) as update:
            found = run(loaded, protocol, held_out, shards=shards, strict=strict, progress=update)
        if distributed.joined()[0]:
            return  # the first process writes
        found.manifest["command"] = command_line()
        with whole_folder(folder, "measure") as fresh:
            found.write(fresh)
            figures = save_figures(found, fresh / "figures")
            with spared("report.html"):
                write_text(fresh / "report.html", page({str(folder): found}))
        shards.clear()
    if as_json:
        streams.answered(json.dumps(found.summary(), default=str), folder)
    else:
        print_run(found)
        streams.written(folder, f"/ (report.html, run.json, shift.parquet, summary.json, {len(figures)} figures)")
