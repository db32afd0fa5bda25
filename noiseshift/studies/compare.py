"""`noiseshift compare`: many runs beside each other, and which of their differences are real.

Samplers of unlike steps condition on unlike levels, and δ grows towards the data: a mean over each run's own steps would compare
levels, not runs. So δ² is averaged along the levels that all runs were read between. Runs of one seed share initial noise and
classes sample by sample, and calibrate on the same real images: their differences are paired; others are not. p-values of
all pairs are Holm's, so that a table of twenty pairs has one false difference in twenty *tables*.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from noiseshift import distributed
from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion.guidance import in_words
from noiseshift.diffusion.identity import differences
from noiseshift.diffusion.schedules import describe
from noiseshift.evaluation import (
    Extractor,
    Features,
    Jackknife,
    Moments,
    distance_name,
    evaluate,
    jackknife,
    require_enough,
)
from noiseshift.reading import read_csv, read_json, reading
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import (
    Span,
    common_span,
    content_rms,
    mean_square,
    mean_square_draws,
    rms_shift,
    shared_levels,
    terminal_shift,
)
from noiseshift.studies.checking import checked
from noiseshift.studies.folders import Run
from noiseshift.studies.measure import run as measure
from noiseshift.studies.protocol import Protocol, fingerprint
from noiseshift.studies.sampling import Progress
from noiseshift.studies.shards import Shards
from noiseshift.writing import claimed, jointly, merged_folder

MEAN_SQUARE = "mean δ²"
MANIFEST = "comparison.json"


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: what it is called; its sub-folder too.
        checkpoint: what is sampled.
        protocol: how.
        data: the real images that it is read against; None for its own final samples.
    """

    name: str
    checkpoint: Checkpoint
    protocol: Protocol
    data: Images | None


def run_grid(
    cells: Sequence[Cell],
    folder: str | Path,
    *,
    extractor: Extractor | None = None,
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Run]:
    """Every cell's run, in its own sub-folder: one that is there already, of the same protocol, is read and not made. Under
    `strict` the checks of all cells are made before the first run.

    Args:
        cells: the runs of the grid, each under a name of its own.
        folder: holds a sub-folder per run.
        extractor: what computes features, for distances; None for none.
        progress: called as (stage, done, total).

    Returns:
        The runs, by name.

    Raises:
        ValueError: two cells of one name.
        PlaceError: `folder` or a sub-folder is no place for them.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError("two runs of this grid have the same name: name each combination once")
    if strict:
        _check_all(cells, progress)
    found = {}
    with jointly(claimed(folder, "compare", adding=True)):
        for done, cell in enumerate(cells):
            progress("runs", done, len(cells))
            place = Path(folder) / cell.name
            with jointly(claimed(place, "measure")):
                found[cell.name] = _one(cell, place, extractor, progress)
    progress("runs", len(cells), len(cells))
    return found


def _check_all(cells: Sequence[Cell], progress: Progress) -> None:
    """Raise ValueError where a check of any cell's checkpoint on its data fails."""
    for cell in {id(cell.checkpoint): cell for cell in cells}.values():
        device = cell.protocol.device
        checkpoint = cell.checkpoint.to(device, cell.protocol.precision)
        checked(checkpoint, cell.data, device=device, strict=True, progress=progress)


def _one(cell: Cell, folder: Path, extractor: Extractor | None, progress: Progress) -> Run:
    about = fingerprint(cell.checkpoint, cell.protocol, cell.data, extractor)
    shards, run = Shards(folder, about), _kept(folder, about)
    if run is not None:
        shards.clear()  # a process may have been killed when its run stood, and its batches too
        return run
    run = measure(
        cell.checkpoint,
        cell.protocol,
        cell.data,
        extractor=extractor,
        shards=shards,
        progress=lambda stage, done, total: progress(f"{cell.name}: {stage}", done, total),
    )
    distributed.wait()  # the first changes the folder only when all have looked at it
    if distributed.joined()[0] == 0:
        run.save(folder)
    shards.clear()
    return run


def _kept(folder: Path, about: Mapping[str, Any]) -> Run | None:
    """The run that is there, where it is of the same protocol and can be read."""
    if not (folder / "run.json").exists():
        return None
    try:
        run = Run.load(folder)
    except MemoryError:
        raise
    except Exception as error:  # whatever zip, parquet and JSON raise about a damaged file
        words = " ".join(str(error).split())[:120]
        logging.getLogger("noiseshift").warning("%s cannot be read (%s): it is made again", folder, words)
        return None
    other = _other(run.manifest, about)
    if other:
        logging.getLogger("noiseshift").warning("%s holds another run (%s): it is made again", folder, other)
    return None if other else run


def _other(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What a kept run differs in from the one that is asked for, in words; empty where it is the same."""
    given = {key: value for key, value in about.items() if key != "extractor" or value}  # features may be there unasked
    return differences({key: manifest[key] for key in given if key in manifest}, json.loads(json.dumps(given)))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs, as one estimator reads them between common levels.

    Attributes:
        runs: by name.
        estimator: what read them.
        span: the levels between which they are compared.
        table: a row per run: checkpoint, sampler, guidance, NFE; rms δ over the span with its interval, δ at the last step that
            can be read, the rms of the content-controlled δ; with controls, the rms of the solver's and the network's share;
            with features, the distance and whatever else the extractor gives, without their bias and with intervals, and beside
            them `plain`, as everybody prints them; seconds.
        pairs: all pairs of runs: what is compared, first minus second with its 95 % interval, a two-sided p, Holm's p over all
            pairs of that quantity, whether the difference is resolved, and whether the two share samples (`paired`) or not. The
            quantities are the mean δ² (`rms` squared, which unlike a root is regular where there is no shift) and the distance
            without its bias. The δ of two schedules are not in one unit: they are left out.
        command: the words that made it, where that is known.
    """

    runs: Mapping[str, Run]
    estimator: str
    span: Span
    table: pd.DataFrame
    pairs: pd.DataFrame
    command: str = ""

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.runs)}, as {self.estimator} reads them: see .table, .pairs)"

    def report(self, name: str) -> ShiftReport:
        """A run's report by the estimator."""
        return self.runs[name].reports[self.estimator]

    @property
    def baseline(self) -> str:
        """What the shifts are against, which is the same for all runs."""
        return next(iter(self.runs.values())).baseline

    @functools.cached_property
    def shared(self) -> np.ndarray:
        """(S,) conditioning levels that all runs were read at."""
        return shared_levels([self.report(name) for name in self.runs])

    def distance(self) -> str | None:
        """The distance's column, or None where there is none."""
        return next((c for c in self.table if (c == "FID" or c.startswith("FD-")) and " " not in c), None)

    def best(self, quantity: str) -> set[str]:
        """The run of the least `quantity` ("rms" or the distance) and all that are not resolved from it."""
        table = self.table.set_index("run")[quantity].dropna()
        if table.empty:
            return set()
        least = str(table.idxmin())
        pairs = self.pairs[self.pairs.quantity == (MEAN_SQUARE if quantity == "rms" else quantity)]
        pairs = pairs[~pairs.resolved & ((pairs["first"] == least) | (pairs["second"] == least))]
        return {least, *pairs["first"], *pairs["second"]}

    def save(self, folder: str | Path, sources: Mapping[str, Path]) -> None:
        """Write table.csv, pairs.csv, and comparison.json with where the runs are: their folders by name in `sources`.

        Raises PlaceError (a ValueError) where `folder` holds what noiseshift did not write.
        """
        with merged_folder(folder, "compare", MANIFEST) as fresh:
            self.write(fresh, {name: os.path.relpath(sources[name], folder) for name in self.runs})

    def write(self, folder: Path, where: Mapping[str, str]) -> None:
        """Write the comparison's files into a fresh folder; `where` are its runs, relative to its place."""
        _named(self.table, as_text).to_csv(folder / "table.csv", index=False)
        _named(self.pairs, as_text).to_csv(folder / "pairs.csv", index=False)
        about = {"estimator": self.estimator, "span": self.span, "command": self.command, "runs": dict(where)}
        (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """What `save` wrote, with the runs from where they are. Raises FileNotFoundError naming what is missing."""
        folder = Path(folder)
        kind_and_remedy = ("comparison", "run `noiseshift compare` again")
        with reading(folder, *kind_and_remedy):
            about = read_json(folder / MANIFEST, *kind_and_remedy)
            places = {name: folder / path for name, path in about["runs"].items()}
        runs = {name: Run.load(place) for name, place in places.items()}  # which says itself which is missing
        with reading(folder, *kind_and_remedy):
            # "None" is a name like another; only an empty cell is not a number.
            table, pairs = (
                _named(
                    read_csv(folder / f"{stem}.csv", *kind_and_remedy, keep_default_na=False, na_values=[""]), from_text
                )
                for stem in ("table", "pairs")
            )
            return cls(runs, about["estimator"], tuple(about["span"]), table, pairs, about["command"])


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell's first letter for a formula by."""


def as_text(name: str) -> str:
    """A name as a cell that no spreadsheet computes: with an apostrophe before what looks like a formula."""
    return f"'{name}" if name.startswith(FORMULA) else name


def from_text(cell: str) -> str:
    """The name that `as_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _named(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """A table with every text in it changed."""
    texts = [column for column in table if table[column].map(lambda cell: isinstance(cell, str)).any()]
    changed = {c: table[c].map(lambda cell: change(cell) if isinstance(cell, str) else cell) for c in texts}
    return table.assign(**changed)


def compare(
    runs: Mapping[str, Run], estimator: str, reference: Features | Moments | None = None, *, small: bool = False
) -> Comparison:
    """Compare runs as one estimator read them.

    Args:
        runs: by name.
        estimator: one that read all of them.
        reference: features or moments of real images, which distances are taken to, where runs kept features.
        small: allow no more samples than features.

    Returns:
        The comparison: a table of runs, and one of all pairs with Holm's adjustment.

    Raises:
        ValueError: a run was not read by that estimator, at no level that all were read at, or has no more samples than
            features, unless `small`.
    """
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run")
    for name, run in runs.items():
        if estimator not in run.reports:
            raise ValueError(f"{name} was not read by {estimator}: choose one of {', '.join(run.reports)} with --by")
        if reference is not None and run.features is not None and not small:
            require_enough(len(run.features), reference)
    reports = {name: run.reports[estimator] for name, run in runs.items()}
    baselines = {report.baseline: name for name, report in reports.items()}
    if len(baselines) > 1:
        said = " and ".join(f"{name} is read against {baseline}" for baseline, name in baselines.items())
        raise ValueError(f"{said}: these shifts cannot be compared, measure all with the same --data")
    span = common_span(reports.values())
    looked = {name: run.features for name, run in runs.items() if run.features is not None}
    found = {} if reference is None else {name: jackknife(each, reference) for name, each in looked.items()}
    distance = next((distance_name(looked[name].extractor) for name in found), "")
    shifts, distances = _shifts(reports, span), Distances(distance, found)
    rows = [
        _row(name, run, estimator, span, shifts.draws.get(name)) | _quality(run, reference, found.get(name))
        for name, run in runs.items()
    ]
    pairs = pd.concat([_pairs(shifts, runs), _pairs(distances, runs)], ignore_index=True)
    return Comparison(runs, estimator, span, pd.DataFrame(rows), pairs)


@dataclass(frozen=True)
class Quantity:
    """What runs are tested in.

    Attributes:
        name: what it is called.
        values: its value by run.
        draws: (R,) by run; their spread is the value's standard error, and equal rows of two runs that share samples go together.
        freedom: degrees of freedom of that error, by run.
    """

    name: str
    values: Mapping[str, float]
    draws: Mapping[str, np.ndarray]
    freedom: Mapping[str, int]

    def difference(self, first: str, second: str, *, paired: bool) -> dict[str, Any]:
        """first - second, its 95 % interval and two-sided p by Student's t, at the fewer of the degrees of freedom (which is
        no more than Welch's number)."""
        a, b = self.draws[first], self.draws[second]
        spread = float((a - b).std(ddof=1) if paired else np.hypot(a.std(ddof=1), b.std(ddof=1)))
        value, freedom = self.values[first] - self.values[second], min(self.freedom[first], self.freedom[second])
        half = float(stats.t.ppf(0.975, freedom)) * spread
        p = 2 * float(stats.t.sf(abs(value) / spread, freedom)) if spread else float(value == 0)
        return {"difference": value, "low": value - half, "high": value + half, "p": p}


def _shifts(reports: Mapping[str, ShiftReport], span: Span) -> Quantity:
    squares = {name: mean_square(report, span) for name, report in reports.items()}
    seen = {name: reports[name] for name, square in squares.items() if np.isfinite(square)}
    return Quantity(
        MEAN_SQUARE,
        {name: squares[name] for name in seen},
        {name: mean_square_draws(report, span) for name, report in seen.items()},
        {name: len(report.sampled) - 1 for name, report in seen.items()},
    )


@dataclass(frozen=True)
class Distances:
    """The distance to real images, tested as `Quantity` is: by the jackknife of each run that kept features."""

    name: str
    values: Mapping[str, Jackknife]

    def difference(self, first: str, second: str, *, paired: bool) -> dict[str, Any]:
        """first - second, without the bias of few samples, its 95 % interval and two-sided p."""
        a, b = self.values[first], self.values[second]
        found = a.minus(b, paired=paired)
        p = a.p(b, paired=paired)
        return {"difference": found.value, "low": found.low, "high": found.high, "p": p}


def _pairs(tested: Quantity | Distances, runs: Mapping[str, Run]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for first, second in itertools.combinations(tested.values, 2):
        paired = _share_samples(runs[first], runs[second])
        row = {"quantity": tested.name, "first": first, "second": second}
        if tested.name != MEAN_SQUARE or _one_schedule(runs[first], runs[second]):
            rows.append(row | tested.difference(first, second, paired=paired) | {"paired": paired})
    adjusted = holm([row["p"] for row in rows])
    rows = [row | {"p holm": p, "resolved": p < 0.05} for row, p in zip(rows, adjusted, strict=True)]
    columns = ["quantity", "first", "second", "difference", "low", "high", "p", "p holm", "resolved", "paired"]
    return pd.DataFrame(rows, columns=columns).astype({"resolved": bool, "paired": bool})


def _share_samples(a: Run, b: Run) -> bool:
    """Whether sample i of both starts from the same noise and class, read against the same real images."""
    same = all(a.manifest.get(key) == b.manifest.get(key) for key in ("seed", "samples", "shape", "data"))
    lengths = [{name: len(report.sampled) for name, report in run.reports.items()} for run in (a, b)]
    return same and all(lengths[0][name] == lengths[1][name] for name in lengths[0].keys() & lengths[1].keys())


def _one_schedule(a: Run, b: Run) -> bool:
    first, second = (describe(next(iter(run.reports.values())).schedule) for run in (a, b))
    return first == second


def _row(name: str, run: Run, estimator: str, span: Span, squares: np.ndarray | None) -> dict[str, Any]:
    report, about = run.reports[estimator], run.manifest
    ends = [np.nan, np.nan] if squares is None else np.sqrt(np.quantile(squares, [0.025, 0.975]).clip(0))
    row: dict[str, Any] = {
        "run": name,
        "checkpoint": about["checkpoint"]["name"],
        "sampler": about["sampler"],
        "guidance": in_words(about.get("guidance")),
        "nfe": about.get("nfe", np.nan),
        "samples": len(report.sampled),
        "rms": np.nan if squares is None else rms_shift(report, span),
        "rms low": ends[0],
        "rms high": ends[1],
        "run_p": run.answer.run.p,
        "terminal": terminal_shift(report),
        "content": content_rms(report),
    }
    row |= _shares(run, estimator)
    return row | {"seconds": about.get("seconds", np.nan)}


def _shares(run: Run, estimator: str) -> dict[str, float]:
    """rms over the levels of the solver's and the network's part by step refinement; NaN where it was not made."""
    if run.controls is None or run.controls.shares.empty:
        return {"solver": np.nan, "network": np.nan}
    rows = run.controls.shares[run.controls.shares.estimator == estimator]
    return {part: float(np.sqrt((rows[part] ** 2).mean())) for part in ("solver", "network")}


def _quality(run: Run, reference: Features | Moments | None, found: Jackknife | None) -> dict[str, float]:
    if reference is None or run.features is None:
        return {}
    columns: dict[str, float] = {}
    for metric in evaluate(run.features, reference, allow_small=True, distance=found).itertuples():
        name = metric.metric
        columns |= {name: metric.value, f"{name} low": metric.low, f"{name} high": metric.high}
        columns[f"{name} plain"] = metric.plain
    return columns


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 1979): rejecting those under 5 % keeps the chance of a single
    false rejection under 5 %."""
    order, adjusted, largest = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = largest
    return adjusted.tolist()
