"""What corrections did: an outcome a method, the table of all, and the method to choose."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from noiseshift.correction.methods import Method
from noiseshift.evaluation import Features, Jackknife, Moments
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import Sized, content_size, reduction, rms_draws, rms_shift, terminal
from noiseshift.writing import whole_folder


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method did.

    Attributes:
        method: which.
        reports: by estimator.
        features: of all samples.
        quality: the table of `evaluate`.
        distance: its jackknife.
        nfe: rows that the network computed per sample.
        level_calls: the same of the level estimator.
        seconds: of sampling, reading and computing features; NaN where a resumed run found batches finished.
        pictures: the first samples, uint8.
    """

    method: Method
    reports: dict[str, ShiftReport]
    features: Features
    quality: pd.DataFrame
    distance: Jackknife
    nfe: float
    level_calls: float
    seconds: float
    pictures: Tensor

    def __repr__(self) -> str:
        return f"Outcome({self.method.name}, NFE {self.nfe:g}, read by {', '.join(self.reports)})"


@dataclass(frozen=True, eq=False)
class Correction:
    """What corrections do to the shift and to the distance.

    Attributes:
        manifest: what decides the numbers, and versions.
        outcomes: one per method, the unguided one first.
        reference: what their quality was compared with.
    """

    manifest: dict[str, Any]
    outcomes: list[Outcome]
    reference: Features | Moments

    def __repr__(self) -> str:
        methods = ", ".join(outcome.method.name for outcome in self.outcomes)
        return f"Correction({self.manifest['checkpoint']['name']} under {self.manifest['sampler']}: {methods}; see .table())"

    def table(self) -> pd.DataFrame:
        """A row per method: its kind and scale, NFE, level estimator's calls, seconds; by each estimator e the rms shift
        `rms <e>` (noise taken out), the terminal one, the content-controlled rms, and the reduction against `none` in %
        with its paired interval; the distance with its interval, its paired change against `none` (without what few samples
        add to it), and whatever else the extractor gives."""
        return self._table().copy()

    @functools.lru_cache(maxsize=1)  # noqa: B019 figures and files use the same bootstrap many times
    def _table(self) -> pd.DataFrame:
        base = self.outcomes[0]
        return pd.DataFrame([self._row(outcome, base) for outcome in self.outcomes])

    def _row(self, outcome: Outcome, base: Outcome) -> dict[str, Any]:
        method = outcome.method
        row: dict[str, Any] = {"method": method.name, "kind": method.kind, "scale": method.scale, "nfe": outcome.nfe}
        row |= {"level calls": outcome.level_calls, "seconds": outcome.seconds}
        for name, report in outcome.reports.items():
            reduced = reduction(report, base.reports[name])
            row |= {
                f"rms {name}": rms_shift(report),
                f"rms low {name}": float(np.quantile(rms_draws(report), 0.025)),
                f"rms high {name}": float(np.quantile(rms_draws(report), 0.975)),
                **_with_ends("terminal", name, terminal(report)),
                **_with_ends("content", name, content_size(report)),
                f"reduction {name}": 100 * reduced.value,
                f"reduction low {name}": 100 * reduced.low,
                f"reduction high {name}": 100 * reduced.high,
            }
        for metric in outcome.quality.itertuples():
            row |= {
                metric.metric: metric.value,
                f"{metric.metric} low": metric.low,
                f"{metric.metric} high": metric.high,
                f"{metric.metric} plain": metric.plain,
            }
        paired = outcome.distance.minus(base.distance)
        return row | {"change": paired.value, "change low": paired.low, "change high": paired.high}

    def shifts(self, estimator: str) -> pd.DataFrame:
        """The estimator's shift tables of all methods, with a column `method`."""
        return pd.concat([o.reports[estimator].table().assign(method=o.method.name) for o in self.outcomes])

    def save(self, folder: str | Path) -> Path:
        """`run.json`, `methods.csv` and `shift-<estimator>.csv`, whole or not at all. Returns the folder.

        Raises PlaceError (a ValueError) where something else than an earlier correction is there.
        """
        with whole_folder(folder, "correct") as fresh:
            self.write(fresh)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the correction's files into a fresh folder."""
        about = self.manifest | {"chosen": self.chosen()}
        (folder / "run.json").write_text(json.dumps(about, indent=2, default=str) + "\n")
        self.table().to_csv(folder / "methods.csv", index=False)
        for each in self.outcomes[0].reports:
            self.shifts(each).to_csv(folder / f"shift-{each}.csv", index=False)

    def chosen(self) -> tuple[str, str]:
        """The method of the least distance among those whose gain over `none` is resolved, and the reason in words."""
        table = self.table()
        distance = self.outcomes[0].quality.metric.iloc[0]
        better = table[table["change high"] < 0]
        if len(table) > 1 and table["change high"][1:].isna().all():
            return "none", f"of so few samples no change of {distance} has an interval, so that no gain can be shown"
        if better.empty:
            return "none", f"no method lowers {distance} by more than its paired 95 % interval"
        best = better.loc[better[distance].idxmin()]
        estimator = next(iter(self.outcomes[0].reports))
        return best.method, (
            f"{distance} {best[distance]:.2f} against {table[distance].iloc[0]:.2f}, paired change {best.change:+.2f} "
            f"[{best['change low']:+.2f}, {best['change high']:+.2f}]; {_words(best, estimator)}"
        )


def _with_ends(word: str, estimator: str, found: Sized) -> dict[str, float]:
    return {f"{word} {end}{estimator}": value for end, value in zip(("", "low ", "high "), found, strict=True)}


def _words(method: pd.Series, estimator: str) -> str:
    reduction, low, high = (method[f"reduction {end}{estimator}"] for end in ("", "low ", "high "))
    if np.isnan(reduction):
        return f"no shift is resolved that it could reduce (by {estimator})"
    ends = "no interval" if np.isnan(low) else f"95 % {low:+.0f} … {high:+.0f}"
    return f"reduction of the shift {reduction:+.0f} % ({ends}, by {estimator})"
