"""`noiseshift approx`: Statement 1 under test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from noiseshift.cli import options, parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_cost
from noiseshift.cli.inputs import real_images_for
from noiseshift.cli.saving import save_with_page
from noiseshift.cli.terminal import command_line, progress_bar

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.data import Images
    from noiseshift.studies.approximate import Plan, Study


@dataclass(frozen=True, kw_only=True)
class Given(options.DeviceOptions, options.DataOptions):
    """What `approx` was given."""

    source: options.Source
    samplers: tuple[Any, ...]
    times: tuple[float, ...]
    ratios: tuple[float, ...]
    rows: int
    samples: int
    substeps: int
    estimators: dict[str, int | None] | None
    strict: bool
    dry_run: bool
    out: str | None
    as_json: bool

    def plan(self, loaded: Checkpoint, held_out: Images) -> Plan:
        """What decides the numbers."""
        from noiseshift.studies.approximate import Plan
        from noiseshift.studies.readers import available

        return Plan(
            self.samplers,
            times=self.times,
            ratios=self.ratios,
            rows=self.rows,
            samples=self.samples,
            substeps=self.substeps,
            estimators=tuple(self.estimators or available(loaded, held_out, ("network", "residual"))),
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )


@click.command()
@options.checkpoint_options
@options.device_options
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
@options.data_options
@options.strict_option
@dry_run_option
@click.option("--out", type=click.Path(), help=places.FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Summary as JSON on stdout instead of tables.")
@options.taking(Given)
def command(given: Given) -> None:
    """Test the paper's first-order approximation, delta = (sqrt(sigma² + sigma_e²) - sigma) / dsigma, on CHECKPOINT.

    Known errors are injected into real states and the shift they make is measured, beside first order and the exact
    roots. Then real runs are followed beside fine ones from the same seeds: is their error what Statement 1 takes it for?

    \b
    noiseshift approx
    noiseshift approx fashion-ddpm --sampler ddim:20
    noiseshift approx model.pt --family sit --data heldout.npz --estimator residual --sampler heun:10
    """
    places.folder(given.out, "approx")
    from noiseshift.analysis.approximate import save_figures

    from noiseshift.studies.approximate import plan_fingerprint, run
    from noiseshift.studies.folders import run_name
    from noiseshift.writing import claimed

    loaded = given.source.load()
    held_out = real_images_for(loaded, given.data, given.limits, "known errors are added to real states")
    plan = given.plan(loaded, held_out)
    if given.dry_run:
        from noiseshift.studies.cost_of_studies import approximation_cost

        cost = approximation_cost(loaded, plan, len(held_out))
        print_cost(cost, given.as_json, figures=_figures(plan))
        return
    name = run_name(plan_fingerprint(loaded, plan, held_out), "approx")
    folder = places.run_folder(given.out, "approx", name)
    with claimed(folder, "approx"):
        with progress_bar(given.progress) as update:
            study = run(loaded, plan, held_out, strict=given.strict, progress=update)
        study.manifest["command"] = command_line()
        figures = save_with_page(study, folder, "approx", save_figures)
    _say(study, folder, len(figures), given.as_json)


def _figures(plan: Plan) -> int:
    """About how many are drawn: three of the injections an estimator; of every run, by either model, one an estimator and
    its spectrum."""
    return 3 * len(plan.estimators) + 2 * len(plan.solvers) * (len(plan.estimators) + 1)


def _say(study: Study, folder: Path, figures: int, as_json: bool) -> None:
    from noiseshift.analysis.approximate import print_study

    if as_json:
        streams.answered(json.dumps(study.summary(), default=str), folder)
    else:
        print_study(study)
        streams.written(folder, f"/ (report.html, run.json, summary.json, 3 tables, {figures} figures)")
