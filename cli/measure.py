"""`noiseshift measure`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
from noiseshift.cli import parse
from noiseshift.cli.options import checkpoint_options, command_line, progress_bar, run_options


@click.command()
@checkpoint_options
@run_options
@click.option("--samples", type=click.IntRange(min=2), default=256, show_default=True)
@click.option(
    "--estimator",
    "estimators",
    type=parse.ESTIMATOR,
    default="network,residual,constant-pixel",
    show_default=True,
    help="network, residual, constant-pixel, fokker-planck, score-mixture; NAME:N reads only the first N samples.",
)
@click.option("--points", type=click.IntRange(min=1), default=8, show_default=True, help="How many steps are read.")
@click.option("--data", type=click.Path(), help="Held-out real images: folder or .npz; the bundled set by default.")
@click.option("--controls", is_flag=True, help="Also run the null, known-level and exact-model controls.")
@click.option("--out", type=click.Path(), help="Run folder; runs/<checkpoint>-<sampler> by default.")
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
def command(
    checkpoint: str | None,
    family: str | None,
    card: str | None,
    sampler: Any,
    guidance: Any,
    seed: int,
    batch: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    progress: bool,
    samples: int,
    estimators: dict[str, int | None],
    points: int,
    data: str | None,
    controls: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Measure the noise shift of CHECKPOINT: how far the noise in its sampling states is from what the network is told.

    Without an argument it reads the bundled Fashion-MNIST model. Delta > 0 means noisier than told. Intervals are 95 %
    bootstraps; a shift under the detection floor is "not resolved".

    \b
    noiseshift measure
    noiseshift measure --sampler em:50 --controls
    noiseshift measure fashion-ddpm --sampler ddpm:50 --guidance nag=0.5
    noiseshift measure model.pt --family sit --data heldout.npz --estimator residual,fokker-planck:32
    noiseshift measure --sampler diffusers/DPMSolverMultistepScheduler:20 --json
    """
    from noiseshift.analysis.plots import save_figures
    from noiseshift.analysis.report import page
    from noiseshift.analysis.tables import print_run

    from noiseshift import data as images
    from noiseshift.checkpoints import load
    from noiseshift.protocol import Protocol, fingerprint, run
    from noiseshift.runs import Shards

    loaded = load(checkpoint, family=family, card=card)
    protocol = Protocol(
        solver=sampler,
        samples=samples,
        estimators=estimators,
        guidance=guidance,
        points=points,
        controls=controls,
        batch=batch,
        seed=seed,
        device=device,
        precision=precision,
    )
    held_out = images.load_images(data) if data else images.reference()
    folder = Path(out or f"runs/{loaded.name}-{sampler.name.replace(':', '-').replace('/', '-')}")
    shards = Shards(folder, fingerprint(loaded, protocol))
    with progress_bar(progress) as update:
        found = run(loaded, protocol, held_out, shards=shards, progress=update)
    found.manifest["command"] = command_line()
    found.save(folder)
    shards.clear()
    figures = save_figures(found, folder / "figures")
    (folder / "report.html").write_text(page({str(folder): found}), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found.summary(), default=str))
    else:
        print_run(found)
        click.echo(f"written: {folder}/ (report.html, run.json, shift.parquet, summary.json, {len(figures)} figures)")
