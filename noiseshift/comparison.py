"""`noiseshift compare`: many runs beside each other, and which of their differences are real.

Runs of one seed share initial noise and classes sample by sample, and calibrate on the same real images: differences are
paired. p-values of all pairs are Holm's, so that a table of twenty pairs has one false difference in twenty *tables*.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.evaluation import Extractor, Features, Moments, distance_draws, evaluate, require_enough
from noiseshift.protocol import Progress, Protocol, fingerprint
from noiseshift.protocol import run as measure
from noiseshift.rms import content_rms, mean_square, mean_square_draws, rms_interval, rms_shift, terminal_shift
from noiseshift.runs import Run, Shards
from noiseshift.shift import ShiftReport

MEAN_SQUARE = "mean δ²"


@dataclass(frozen=True)
class Cell:
    """One run of a grid: what it is called, what is sampled and how, and which images it is read against."""

    name: str
    checkpoint: Checkpoint
    protocol: Protocol
    data: Images


def run_grid(
    cells: Sequence[Cell],
    folder: str | Path,
    *,
    extractor: Extractor | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Run]:
    """Every cell's run, in its own sub-folder: one that is there already, of the same protocol, is read and not made.

    Raises ValueError for two cells of one name.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError("two runs of this grid have the same name: name each combination once")
    found = {}
    for done, cell in enumerate(cells):
        progress("runs", done, len(cells))
        found[cell.name] = _one(cell, Path(folder) / cell.name, extractor, progress)
    progress("runs", len(cells), len(cells))
    return found


def _one(cell: Cell, folder: Path, extractor: Extractor | None, progress: Progress) -> Run:
    about = fingerprint(cell.checkpoint, cell.protocol, cell.data)
    if (folder / "run.json").exists():
        run = Run.load(folder)
        looked = extractor is None or (run.features is not None and run.features.extractor == extractor.name)
        if looked and all(_plain(run.manifest.get(key)) == _plain(value) for key, value in about.items()):
            return run
    shards = Shards(folder, about | {"extractor": extractor and extractor.name})
    run = measure(
        cell.checkpoint,
        cell.protocol,
        cell.data,
        extractor=extractor,
        shards=shards,
        progress=lambda stage, done, total: progress(f"{cell.name}: {stage}", done, total),
    )
    run.save(folder)
    shards.clear()
    return run


def _plain(value: Any) -> str:
    """As JSON keeps it."""
    return json.dumps(value, sort_keys=True, default=str)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs by name, read by one estimator; `reference` is what distances are taken to, where runs kept features.

    Raises ValueError when a run was not read by that estimator, or has no more samples than features, unless `small`.
    """

    runs: Mapping[str, Run]
    estimator: str
    reference: Features | Moments | None = None
    small: bool = False

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("there is nothing to compare: give at least one run")
        for name, run in self.runs.items():
            if self.estimator not in run.reports:
                raise ValueError(
                    f"{name} was not read by {self.estimator}: choose one of {', '.join(run.reports)} with --by"
                )
            if self.reference is not None and run.features is not None and not self.small:
                require_enough(len(run.features), self.reference)

    def report(self, name: str) -> ShiftReport:
        """A run's report by the estimator."""
        return self.runs[name].reports[self.estimator]

    def table(self) -> pd.DataFrame:
        """A row a run: checkpoint, sampler, guidance, NFE; rms δ with its interval, δ at the last step that can be read,
        the rms of the content-controlled δ; with controls, the rms of the solver's and the network's share; with
        features, the distance and whatever else the extractor gives, with intervals; seconds."""
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        return pd.DataFrame([self._row(name, run) for name, run in self.runs.items()])

    def _row(self, name: str, run: Run) -> dict[str, Any]:
        report, about = self.report(name), run.manifest
        low, high = rms_interval(report)
        row: dict[str, Any] = {
            "run": name,
            "checkpoint": about["checkpoint"]["name"],
            "sampler": about["sampler"],
            "guidance": _guidance(about.get("guidance")),
            "nfe": about.get("nfe", np.nan),
            "samples": len(report.sampled),
            "rms": rms_shift(report),
            "rms low": low,
            "rms high": high,
            "terminal": terminal_shift(report),
            "content": content_rms(report),
        }
        solver = run.controls.solver.get(self.estimator) if run.controls else None
        row["solver"] = np.nan if solver is None else rms_shift(solver)
        share = None if solver is None else (report - solver).table()["difference"]
        row["network"] = np.nan if share is None else float(np.sqrt((share**2).mean()))
        return row | self._quality(run) | {"seconds": about.get("seconds", np.nan)}

    def _quality(self, run: Run) -> dict[str, float]:
        if self.reference is None or run.features is None:
            return {}
        found = evaluate(run.features, self.reference, allow_small=self.small)
        columns: dict[str, float] = {}
        for metric in found.itertuples():
            columns |= {metric.metric: metric.value, f"{metric.metric} low": metric.low}
            columns[f"{metric.metric} high"] = metric.high
        return columns

    def distance(self) -> str | None:
        """The distance's column, or None where there is none."""
        columns = self._table.columns
        return next((c for c in columns if (c == "FID" or c.startswith("FD-")) and " " not in c), None)

    def pairs(self) -> pd.DataFrame:
        """All pairs of runs: what is compared, first minus second with its paired 95 % interval, a two-sided p from its
        standard error, Holm's p over all pairs of that quantity, and whether the difference is resolved. The quantities are
        the mean δ² (`rms` squared, which unlike a root is regular where there is no shift) and the distance. Pairs that
        share no samples are left out."""
        return self._pairs.copy()

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for quantity, draws, values in self._quantities():
            part = [
                {
                    "quantity": quantity,
                    "first": a,
                    "second": b,
                    **_difference(draws[a], draws[b], values[a] - values[b]),
                }
                for a, b in itertools.combinations(draws, 2)
                if self._paired(a, b)
            ]
            for row, p in zip(part, holm([row["p"] for row in part]), strict=True):
                rows.append(row | {"p holm": p, "resolved": p < 0.05})
        columns = ["quantity", "first", "second", "difference", "low", "high", "p", "p holm", "resolved"]
        return pd.DataFrame(rows, columns=columns)

    def _quantities(self) -> list[tuple[str, dict[str, np.ndarray], dict[str, float]]]:
        reports = {name: self.report(name) for name in self.runs}
        found = [
            (
                MEAN_SQUARE,
                {name: mean_square_draws(report) for name, report in reports.items()},
                {name: mean_square(report) for name, report in reports.items()},
            )
        ]
        name, looked = self.distance(), {n: r.features for n, r in self.runs.items() if r.features is not None}
        if name is not None and self.reference is not None:
            table = self._table.set_index("run")[name]
            draws = {n: distance_draws(features, self.reference) for n, features in looked.items()}
            found.append((name, draws, {n: float(table[n]) for n in looked}))
        return found

    def _paired(self, first: str, second: str) -> bool:
        a, b = self.runs[first], self.runs[second]
        same = all(a.manifest.get(key) == b.manifest.get(key) for key in ("seed", "samples", "shape", "data"))
        return same and len(self.report(first).sampled) == len(self.report(second).sampled)

    def best(self, quantity: str) -> set[str]:
        """The run of the least `quantity` ("rms" or the distance) and all that are not resolved from it."""
        table = self._table.set_index("run")[quantity].dropna()
        if table.empty:
            return set()
        least = str(table.idxmin())
        pairs = self._pairs
        compared_as = MEAN_SQUARE if quantity == "rms" else quantity
        pairs = pairs[(pairs.quantity == compared_as) & ((pairs["first"] == least) | (pairs["second"] == least))]
        if pairs.empty:
            return {least}  # nothing shares its samples: there is nothing to resolve
        worse = set(pairs[pairs.resolved]["first"]) | set(pairs[pairs.resolved]["second"])
        compared = set(pairs["first"]) | set(pairs["second"]) | {least}
        return (compared - worse) | {least}


def _guidance(weights: Mapping[str, float] | None) -> str:
    """Branch weights as a manifest keeps them, in words: `cfg=1, nag=0.5`; `none` without."""
    if not weights:
        return "none"
    names = {"(True, False, 0)": "cfg", "(False, True, 0)": "nag"}
    parts = [f"{names[key]}={-weight:g}" for key, weight in weights.items() if key in names and weight]
    return ", ".join(parts) or "other"


def _difference(first: np.ndarray, second: np.ndarray, value: float) -> dict[str, Any]:
    """From paired draws, centred on the estimate, whatever bias resampling brings in. The p is normal: counting draws
    cannot get under one in their number, which Holm's factor then makes too large to resolve anything."""
    draws = first - second
    draws = draws - draws.mean() + value
    low, high = np.quantile(draws, [0.025, 0.975])
    spread = float(draws.std())
    p = 2 * float(stats.norm.sf(abs(value) / spread)) if spread else float(value == 0)
    return {"difference": value, "low": float(low), "high": float(high), "p": p}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 6, 1979): rejecting those under 5 % keeps the chance of a single
    false rejection under 5 %."""
    order, adjusted, largest = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = largest
    return adjusted.tolist()
