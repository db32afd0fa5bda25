"""`noiseshift approx`: Statement 1 under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
from noiseshift.cli import parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.inputs import real_images_for
from noiseshift.cli.options import Source, checkpoint_options, data_options, device_options, strict_option
from noiseshift.cli.terminal import command_line, progress_bar


@click.command()
@checkpoint_options
@device_options
@click.option(
    "--sampler",
    "samplers",
    type=parse.SOLVER,
    multiple=True,
    default=["euler:10", "em:20"],
    show_default=True,
    help="Real runs to follow: euler:N, heun:N, ddim:N or em:N; may be given several times.",
)
@click.option("--times", type=parse.LEVELS, default="0.05,0.1,0.2,0.3,0.5,0.7", show_default=True)
@click.option(
    "--ratios", type=parse.RATIOS, default="0.1,0.2,0.3,0.5,0.75,1", show_default=True, help="Injected σ_e/σ_t."
)
@click.option(
    "--rows", type=click.IntRange(8, 1_000_000), default=160, show_default=True, help="Real states injected into."
)
@click.option("--samples", type=ranges.SAMPLES, default=48, show_default=True, help="Paths of each real run.")
@click.option(
    "--substeps", type=click.IntRange(2, 1_000), default=6, show_default=True, help="Fine steps for each coarse."
)
@click.option(
    "--estimator",
    "estimators",
    type=parse.ESTIMATOR,
    help="By default network and residual, or those that are available.",
)
@data_options
@strict_option
@dry_run_option
@click.option("--out", type=click.Path(), help=places.FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
def command(
    source: Source,
    seed: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    progress: bool,
    samplers: tuple[Any, ...],
    times: tuple[float, ...],
    ratios: tuple[float, ...],
    rows: int,
    samples: int,
    substeps: int,
    estimators: dict[str, int | None] | None,
    data: str | None,
    limits: Any,
    strict: bool,
    dry_run: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Test the paper's first-order approximation, delta = (sqrt(sigma² + sigma_e²) - sigma) / dsigma, on CHECKPOINT.

    Known errors are injected into real states and the shift they make is measured, beside first order and the exact
    roots. Then real runs are followed beside fine ones from the same seeds: is their error what Statement 1 takes it for?

    \b
    noiseshift approx
    noiseshift approx fashion-ddpm --sampler ddim:20
    noiseshift approx model.pt --family sit --data heldout.npz --estimator residual --sampler heun:10
    """
    places.folder(out, "approx")
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.approximate import print_study, save_figures
    from noiseshift.analysis.report import page

    from noiseshift.studies.approximate import Plan, plan_fingerprint, run
    from noiseshift.studies.folders import run_name
    from noiseshift.studies.readers import available
    from noiseshift.writing import claimed, whole_folder, write_text

    loaded = source.load()
    held_out = real_images_for(loaded, data, limits, "known errors are added to real states")
    plan = Plan(
        samplers,
        times=times,
        ratios=ratios,
        rows=rows,
        samples=samples,
        substeps=substeps,
        estimators=tuple(estimators or available(loaded, held_out, ("network", "residual"))),
        seed=seed,
        device=device,
        precision=precision,
    )
    if dry_run:
        from noiseshift.studies.cost_of_studies import approximation_cost

        # Three of the injections an estimator; of every run, by either model, one an estimator and its spectrum.
        figures = 3 * len(plan.estimators) + 2 * len(plan.solvers) * (len(plan.estimators) + 1)
        print_cost(approximation_cost(loaded, plan, len(held_out)), as_json, figures=figures)
        return
    folder = Path(out or f"runs/{run_name(plan_fingerprint(loaded, plan, held_out), 'approx')}")
    places.folder(folder, "approx")
    with claimed(folder, "approx"):
        with progress_bar(progress) as update:
            study = run(loaded, plan, held_out, strict=strict, progress=update)
        study.manifest["command"] = command_line()
        with whole_folder(folder, "approx") as fresh:
            study.write(fresh)
            drawn = save_figures(study, fresh / "figures")
            with spared("report.html"):
                write_text(fresh / "report.html", page({str(folder): fresh}))
    if as_json:
        streams.answered(json.dumps(study.summary(), default=str), folder)
    else:
        print_study(study)
        streams.written(folder, f"/ (report.html, run.json, summary.json, 3 tables, {len(drawn)} figures)")
