"""`noiseshift compare`: many runs beside each other, and which of their differences are real.

Samplers of unlike steps condition on unlike levels, and δ grows towards the data: a mean over each run's own steps would compare
levels, not runs. So δ² is averaged along the levels that all runs were read between. `grid` makes the runs, `differences`
tests them in pairs.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noiseshift.diffusion.guidance import in_words
from noiseshift.evaluation import (
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
    NOTHING,
    Sized,
    Span,
    common_span,
    content_size,
    rms_shift,
    shared_levels,
    sized,
    terminal,
)
from noiseshift.studies.cells import as_text, from_text, with_texts
from noiseshift.studies.differences import MEAN_SQUARE, Distances, Quantity, final_noise_of, pairs_of, shifts_of
from noiseshift.studies.folders import Run
from noiseshift.writing import changed, merged_folder

MANIFEST = "comparison.json"
COMPARISON = ("comparison", "run `noiseshift compare` again")
"""What the folder is, and what to do about a damaged one."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs, as one estimator reads them between common levels.

    Attributes:
        runs: by name.
        estimator: what read them.
        span: the levels between which they are compared.
        table: a row per run: checkpoint, sampler, guidance, NFE; rms δ over the span with its interval, δ at the last step that
            can be read, the rms of the content-controlled δ; with controls, the rms of the solver's and the network's share,
            all with intervals; with features, the distance and whatever else the extractor gives, without their bias and with
            intervals, and beside them `plain`, as everybody prints them; seconds.
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

        Args:
            folder: may hold an older comparison.
            sources: the folder of each run, by name.
        """
        with merged_folder(folder, "compare", MANIFEST) as fresh:
            self.write(fresh, {name: os.path.relpath(sources[name], folder) for name in self.runs})

    def write(self, folder: Path, where: Mapping[str, str]) -> None:
        """Write the comparison's files into a fresh folder; `where` are its runs, relative to its place.

        Args:
            folder: one that is there.
            where: each run's folder, by name.
        """
        with_texts(self.table, as_text).to_csv(folder / "table.csv", index=False)
        with_texts(self.pairs, as_text).to_csv(folder / "pairs.csv", index=False)
        about = {"estimator": self.estimator, "span": self.span, "command": self.command, "runs": dict(where)}
        (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """What `save` wrote, with the runs from where they are. Raises FileNotFoundError naming what is missing."""
        folder = Path(folder)
        with reading(folder, *COMPARISON):
            about = read_json(folder / MANIFEST, *COMPARISON)
            places = {name: folder / path for name, path in about["runs"].items()}
            if not all(isinstance(about[name], str) for name in ("estimator", "command")):
                raise ValueError("its estimator or its command is no word")
        runs = {name: Run.load(place) for name, place in places.items()}  # which says itself which is missing
        changed(folder)
        with reading(folder, *COMPARISON):
            # "None" is a name like another; only an empty cell is not a number.
            table, pairs = (
                with_texts(
                    read_csv(folder / f"{stem}.csv", *COMPARISON, keep_default_na=False, na_values=[""]), from_text
                )
                for stem in ("table", "pairs")
            )
            return cls(runs, about["estimator"], tuple(about["span"]), table, pairs, about["command"])


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
    shifts = shifts_of(reports, span)
    distances = Distances(distance, found)
    rows = [
        _row(name, run, estimator, span, shifts.draws.get(name)) | _quality(run, reference, found.get(name))
        for name, run in runs.items()
    ]
    tested: list[Quantity | Distances] = [shifts, distances]
    if any("variant" in run.manifest["checkpoint"] for run in runs.values()):
        tested.append(final_noise_of(runs))
    pairs = pd.concat([pairs_of(each, runs) for each in tested], ignore_index=True)
    return Comparison(runs, estimator, span, pd.DataFrame(rows), pairs)


COSTS = ("skipped", "sampling seconds", "weights MB", "peak MB")
"""What a variant costs, as runs say it: the share of attentions that a cache left out, and what a run took."""


def _row(name: str, run: Run, estimator: str, span: Span, squares: np.ndarray | None) -> dict[str, Any]:
    report = run.reports[estimator]
    about = run.manifest
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
    }
    row |= _with_ends("terminal", terminal(report)) | _with_ends("content", content_size(report))
    row |= _shares(run, estimator) | _final_noise(run)
    if "variant" in about["checkpoint"]:
        row["variant"] = about["checkpoint"]["variant"]
    costs = {name: about[name] for name in COSTS if name in about}
    return row | costs | {"seconds": about.get("seconds", np.nan)}


def _final_noise(run: Run) -> dict[str, float]:
    """The residual noise of the final samples, by the first reader; nothing where it was not read."""
    if run.residual_noise is None or run.residual_noise.empty:
        return {}
    first = run.residual_noise.iloc[0]
    return {"σ end": first.sigma, "σ end low": first.low, "σ end high": first.high}


def _shares(run: Run, estimator: str) -> dict[str, float]:
    """rms over the levels of the solver's and the network's part by step refinement, their noise taken out; NaN where it was
    not made."""
    if run.controls is None or run.controls.shares.empty:
        return _with_ends("solver", NOTHING) | _with_ends("network", NOTHING)
    rows = run.controls.shares[run.controls.shares.estimator == estimator]
    found = {part: sized(rows[part], rows[f"{part}_low"], rows[f"{part}_high"]) for part in ("solver", "network")}
    return _with_ends("solver", found["solver"]) | _with_ends("network", found["network"])


def _with_ends(name: str, found: Sized) -> dict[str, float]:
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def _quality(run: Run, reference: Features | Moments | None, found: Jackknife | None) -> dict[str, float]:
    if reference is None or run.features is None:
        return {}
    columns: dict[str, float] = {}
    for metric in evaluate(run.features, reference, allow_small=True, distance=found).itertuples():
        name = metric.metric
        columns |= {name: metric.value, f"{name} low": metric.low, f"{name} high": metric.high}
        columns[f"{name} plain"] = metric.plain
    return columns
