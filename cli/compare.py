"""`noiseshift compare`: samplers, step counts, guidance and checkpoints beside each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from noiseshift.analysis.names import plain
from noiseshift.cli import options, parse, places, ranges, streams
from noiseshift.cli.costs import dry_run_option, print_costs
from noiseshift.cli.inputs import images_for, reference_for
from noiseshift.cli.terminal import command_line, progress_bar

from noiseshift.diffusion.words import SOLVERS
from noiseshift.studies.words import VARIANTS

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.evaluation import Features, Moments
    from noiseshift.studies.compare import Comparison
    from noiseshift.studies.folders import Run
    from noiseshift.studies.grid import Cell
    from noiseshift.studies.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Given(options.DeviceOptions, options.DataOptions):
    """What `compare` was given."""

    runs: tuple[str, ...]
    checkpoints: tuple[str, ...]
    samplers: tuple[Any, ...]
    guidances: tuple[tuple[str, Any], ...]
    variants: tuple[Any, ...]
    family: str | None
    pipeline: dict[str, Any]
    samples: int
    estimators: dict[str, int | None] | None
    points: int
    batch: int
    strict: bool
    controls: bool
    extractor: str | None
    trust: bool
    weights: str | None
    reference: str | None
    small: bool
    by: str | None
    paper: str | None
    dry_run: bool
    out: Path
    as_json: bool

    def of_a_grid(self) -> bool:
        """Whether something was given that finished runs do not take."""
        return bool(self.checkpoints or self.samplers or self.guidances or self.variants or self.pipeline)

    def paths(self) -> tuple[str, ...]:
        """Those of the grid's checkpoints; none for finished runs."""
        return () if self.runs else self.checkpoints or ("fashion-sit",)

    def load(self, path: str, **more: Any) -> Checkpoint:
        """One of the checkpoints, with what all of them were given."""
        from noiseshift.checkpoints import load

        return load(path, family=self._family_of(path), trust=self.trust, **more, **self.pipeline)

    def _family_of(self, path: str) -> str | None:
        """The family that was named, but beside other checkpoints not for a function or a folder, which have none."""
        from noiseshift.checkpoints.custom_code import is_reference

        without = len(self.paths()) > 1 and (is_reference(path) or Path(path).is_dir())
        return None if without else self.family

    def protocol(self) -> Protocol:
        """What decides the numbers, with the first sampler for every other."""
        from noiseshift.studies.protocol import Protocol

        return Protocol(
            self.samplers[0],
            samples=self.samples,
            points=self.points,
            batch=self.batch,
            controls=self.controls,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )


@click.command()
@click.argument("runs", nargs=-1, type=click.Path())
@options.device_options
@click.option("--checkpoint", "checkpoints", multiple=True, help="Repeat for several; the bundled model by default.")
@click.option("--sampler", "samplers", type=parse.SOLVER, multiple=True, help=f"Repeat for several: {SOLVERS}.")
@click.option(
    "--guidance",
    "guidances",
    type=parse.NAMED_GUIDANCE,
    multiple=True,
    help="Repeat for several: none, cfg=W, nag=W, cfg=W,nag=W.",
)
@click.option(
    "--variant",
    "variants",
    type=parse.VARIANT,
    multiple=True,
    help=f"Repeat for several changes of the checkpoint, the first of which is compared with the others: {VARIANTS}.",
)
@click.option("--family", help="sit, dit or repa, for checkpoints that do not say so.")
@options.pipeline_options
@click.option("--samples", type=ranges.SAMPLES, default=256, show_default=True)
@click.option("--estimator", "estimators", type=parse.ESTIMATOR, help="As in measure.")
@click.option("--points", type=ranges.POINTS, default=8, show_default=True, help="How many steps are read.")
@click.option("--batch", type=ranges.BATCH, default=128, show_default=True)
@options.data_options
@options.strict_option
@click.option("--controls", is_flag=True, help="Also run the controls of every run.")
@click.option("--extractor", help=f"Also take distances: {parse.EXTRACTORS}.")
@click.option(
    "--trust", is_flag=True, help="Run the code in a file (TorchScript, pickles): only for one that you made yourself."
)
@click.option("--weights", type=click.Path(exists=True), help="Weights of inception or clip; fetched by default.")
@click.option("--reference", type=click.Path(), help="Statistics (.npz) or images; the training set's for fashion.")
@click.option("--small", is_flag=True, help="Allow no more samples than features.")
@click.option("--by", help="The estimator that is compared; the first that read all runs by default.")
@click.option(
    "--paper", type=click.Choice(["iclr", "neurips", "icml", "cvpr", "cvpr-wide"]), help="Size of the figures."
)
@dry_run_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/compare",
    show_default=True,
    help="Folder of the comparison, and of the runs of a grid; runs that are there are read, others are added.",
)
@click.option("--json", "as_json", is_flag=True, help="Tables as JSON on stdout.")
@options.taking(Given)
def command(given: Given) -> None:
    """Compare RUNS that `measure` wrote, or measure a grid of checkpoints × samplers × guidance and compare that.

    Every run of a grid has its own folder under --out; what is there is not made again. All share their seeds, so
    differences are paired; shifts are compared over the levels that all runs were read between; p-values of all pairs are
    Holm's. report.html has it all. A YAML file of these options makes a grid that can be kept:
    --config grid.yaml, with lists under `sampler`, `checkpoint`, `guidance`.

    \b
    noiseshift compare --sampler euler:10 --sampler euler:20 --sampler em:20 --out runs/samplers
    noiseshift compare --sampler em:20 --guidance none --guidance nag=0.5 --samples 2000 --extractor fashion
    noiseshift compare --sampler euler:20 --variant fp32 --variant bf16 --variant time=bf16 --variant steps=10
    noiseshift compare --checkpoint flux/ --prompts words.txt --data real/ --sampler own:28 --variant fp32 --variant cache=pab
    noiseshift compare runs/euler runs/em --by constant-pixel
    """
    places.folder(given.out, "compare", adding=True)
    from noiseshift import distributed
    from noiseshift.studies.compare import compare
    from noiseshift.studies.cost_of_studies import comparison_cost
    from noiseshift.studies.grid import run_grid

    _require_runs_or_a_grid(given)
    features_by = _extractor(given)
    loaded = [given.load(path) for path in given.paths()]
    real = None if features_by is None else _reference(given, loaded, features_by)
    if given.runs:
        found = _finished(given.runs)
    else:
        cells = _cells(given, loaded)
        if features_by is not None and real is not None:
            _require_samples(cells, features_by, real, given)
        if given.dry_run:
            print_costs(comparison_cost(cells, features_by), given.as_json, figures=6)
            return
        with progress_bar(given.progress) as update:
            found = run_grid(cells, given.out, extractor=features_by, strict=given.strict, progress=update)
    if distributed.joined()[0]:
        return  # the first process writes
    compared = compare(found, given.by or _common(found), _compared_with(found, real), small=given.small)
    comparison = replace(compared, command=command_line())
    figures = _save(comparison, given.out, _places_of(found, given), given.paper)
    _say(comparison, found, given.out, len(figures), given.as_json)


def _require_runs_or_a_grid(given: Given) -> None:
    """Raise UsageError for both, for neither, and for a dry run of finished runs."""
    if given.runs and given.of_a_grid():
        raise click.UsageError(
            "give finished RUNS or a grid of --checkpoint, --sampler, --guidance and --variant, not both"
        )
    if not given.runs and not given.samplers:
        raise click.UsageError("name at least one --sampler, or finished runs")
    if given.runs and given.dry_run:
        raise click.UsageError("finished runs cost nothing more: --dry-run is for a grid")


def _extractor(given: Given) -> Any:
    """What computes the features that distances are taken of; None where no --extractor is named."""
    if not given.extractor:
        return None
    if given.extractor != "fashion":
        reference_for([], given.reference, given.extractor)
    return parse.parse_extractor(given.extractor, given.weights, given.device, trust=given.trust)


def _finished(runs: tuple[str, ...]) -> dict[str, Run]:
    """The runs of these folders, by the folder's name. Raises UsageError for two of one name."""
    from noiseshift.reading import as_text
    from noiseshift.studies.folders import Run

    found = {as_text(Path(path).name): Run.load(path) for path in runs}
    if len(found) < len(runs):
        raise click.UsageError("two of these runs have the same folder name: rename one")
    return found


def _cells(given: Given, loaded: Sequence[Checkpoint]) -> list[Cell]:
    """The grid: every checkpoint with every sampler, guidance and variant."""
    from noiseshift.studies.grid import grid, varied

    held_out = images_for(loaded, given.data, given.limits)
    guidances = dict(given.guidances or [("none", None)])
    cells = grid(loaded, given.samplers, guidances, held_out, given.protocol(), estimators=given.estimators)
    if not given.variants:
        return cells
    with_lora = _loader(given, loaded)
    return [varied(cell, each, with_lora) for cell in cells for each in given.variants]


def _loader(given: Given, loaded: Sequence[Checkpoint]) -> Callable[[Checkpoint, str], Checkpoint]:
    """What loads one of the `loaded` anew, from its path and as it was given, with a LoRA merged into it."""
    path_of = dict(zip(map(id, loaded), given.paths(), strict=True))

    def with_lora(checkpoint: Checkpoint, lora: str) -> Checkpoint:
        return given.load(path_of[id(checkpoint)], lora=[lora])

    return with_lora


def _require_samples(cells: Sequence[Cell], features_by: Any, real: Features | Moments, given: Given) -> None:
    """Raise ValueError where a cell would not have the samples that its distances need."""
    from noiseshift.evaluation import warn_of_no_interval
    from noiseshift.studies.room import require_reference

    warn_of_no_interval(given.samples, real)
    for cell in cells:
        require_reference(cell.checkpoint, features_by, real, given.samples, small=given.small)


def _reference(given: Given, loaded: Sequence[Checkpoint], features_by: Any) -> Features | Moments:
    """What distances are taken to."""
    from noiseshift.evaluation import load_reference

    return load_reference(reference_for(loaded, given.reference, given.extractor), features_by, limits=given.limits)


def _compared_with(found: Mapping[str, Run], real: Features | Moments | None) -> Features | Moments | None:
    """What the runs' features are compared with: finished runs kept those of the bundled classifier without saying to
    what; None where no run has any."""
    from noiseshift.evaluation import load_reference

    kept = {run.features.extractor for run in found.values() if run.features is not None}
    if kept == {"fashion"} and real is None:
        return load_reference(reference_for([], None, "fashion"), parse.parse_extractor("fashion", None))
    return real if kept else None


def _places_of(found: Mapping[str, Run], given: Given) -> dict[str, str]:
    """Where each run's folder lies, as seen from the comparison's."""
    from noiseshift.reading import as_text

    there = {as_text(Path(path).name): os.path.relpath(path, given.out) for path in given.runs}
    return there or {name: name for name in found}


def _say(comparison: Comparison, found: dict[str, Run], out: Path, figures: int, as_json: bool) -> None:
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.checks import of_runs, print_failures
    from noiseshift.analysis.compare_tables import terminal_table
    from noiseshift.analysis.page_compare import answer
    from noiseshift.analysis.terminal import screen

    if as_json:
        tables = {"runs": comparison.table, "pairs": comparison.pairs}
        records = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        streams.answered(json.dumps(records), out)
        return
    with spared("the table on the terminal"):
        console = screen()
        print_failures(console, of_runs(found))
        console.print(terminal_table(comparison))
        console.print("bold: the least rms δ, and all that are not resolved from it (Holm, 5 %)", style="dim")
        for line in answer(comparison):
            click.echo(plain(line))
    streams.written(out, f"/ (report.html, table.csv, table.tex, table.md, pairs.csv, {figures} figures)")


def _save(comparison: Comparison, out: Path, where: dict[str, str], paper: str | None) -> list[Path]:
    """The comparison's files, figures and page, beside its runs; returns the figures."""
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.compare import save_comparison
    from noiseshift.analysis.report import page

    from noiseshift.studies.compare import MANIFEST
    from noiseshift.writing import merged_folder, write_text

    with merged_folder(out, "compare", MANIFEST) as fresh:
        comparison.write(fresh, where)
        figures = save_comparison(comparison, fresh, paper=paper)
        with spared("report.html"):
            write_text(fresh / "report.html", page({str(out): comparison}))
    return figures


def _common(runs: dict[str, Any]) -> str:
    """The first estimator that read every run."""
    first = next(iter(runs.values()))
    for name in first.reports:
        if all(name in run.reports for run in runs.values()):
            return str(name)
    raise ValueError("no estimator read all of these runs: measure them alike")
