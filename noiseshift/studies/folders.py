"""Run folders: what `noiseshift measure` found, in files that pandas and a text editor open.

`run.json` everything needed to repeat the run; `shift.parquet` one row a state and step; `posteriors.npz` mean
posteriors; `summary.json` the tables; `controls/` the same for the controls; `samples.npz` the first pictures.
`noiseshift.json` says that the folder is ours, and which files are. A folder is whole or absent (`noiseshift.writing`).
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.data import to_uint8
from noiseshift.diffusion.guidance import in_words
from noiseshift.evaluation import Features
from noiseshift.reading import ReadingError, read_arrays, read_json, read_table, reading
from noiseshift.shift.controls import Check, Controls
from noiseshift.shift.preflight import Preflight
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.storage import RUN, read_reports, write_reports
from noiseshift.shift.summary import RunAnswer, run_answer
from noiseshift.studies.shards import short_hash
from noiseshift.writing import ADDED, SENTENCE, added, changed, whole_folder, write_table

RESIDUAL_NOISE = "residual-noise.parquet"
BY_PART = "parts.parquet"


@dataclass(frozen=True)
class Run:
    """Everything one measurement found.

    Attributes:
        manifest: what decides its numbers, and versions.
        reports: by estimator.
        controls: what they found; None where they were not run.
        pictures: (n ≤ 64, C, H, W) the first final samples, decoded to uint8.
        labels: (n,) their classes, or None.
        features: what an extractor computed of all final samples; None without one.
        residual_noise: what is left in the first final samples, a row a reader (`shift.residual_noise`); None where it was not
            read.
        parts: the shift by Haar band, region, frame or group of samples, with the columns `shift.parts.PARTS`; None where it was
            not asked for.
        changed: files of its folder that are not as they were written.
        added: files of its folder that were read as its own, and that noiseshift did not write there.
    """

    manifest: dict[str, Any]
    reports: dict[str, ShiftReport]
    controls: Controls | None
    pictures: Tensor
    labels: Tensor | None
    features: Features | None = None
    residual_noise: pd.DataFrame | None = None
    parts: pd.DataFrame | None = None
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __repr__(self) -> str:
        name = self.manifest["checkpoint"]["name"]
        read = ", ".join(self.reports)
        summary = f"{name} under {self.manifest['sampler']}, {self.manifest['samples']:,} samples read by {read}"
        return f"Run({summary}: see .answer, .table(), .reports)"

    @functools.cached_property
    def answer(self) -> RunAnswer:
        """Whether there is any shift, at one error rate over all levels and estimators, and whether estimators disagree."""
        return run_answer(self.reports)

    @property
    def baseline(self) -> str:
        """What its shifts are against: held-out data, or re-noised final samples of its own."""
        return next(iter(self.reports.values())).baseline

    @functools.cached_property
    def preflight(self) -> Preflight | None:
        """What was checked before the measurement, and whether the folder's files are as they were written; None in runs of
        versions before 0.2."""
        found = self.manifest.get("preflight")
        checks = None if found is None else Preflight.from_dict(found)
        said = [
            f"{', '.join(names)} {words}" for names, words in ((self.changed, SENTENCE), (self.added, ADDED)) if names
        ]
        if not said:
            return checks
        check = Check("files", False, "; ".join(said))
        return replace(checks, checks=(check, *checks.checks)) if checks else Preflight((check,), pd.DataFrame())

    def table(self) -> pd.DataFrame:
        """All estimators' tables, one under another, with a column `estimator`."""
        tables = [report.table().assign(estimator=name) for name, report in self.reports.items()]
        return pd.concat(tables, ignore_index=True)

    def summary(self) -> dict[str, Any]:
        """The manifest, the run's p-values, each estimator's table and the controls' outcome, ready for JSON."""
        found = self.controls
        solver = {} if found is None else {name: _records(report.table()) for name, report in found.solver.items()}
        return {
            "run": self.manifest,
            "run_p": {name: None if np.isnan(p) else p for name, p in self.answer.p.items()},
            "shift": {name: _records(report.table()) for name, report in self.reports.items()},
            "residual_noise": [] if self.residual_noise is None else _records(self.residual_noise),
            **({} if self.parts is None else {"parts": _records(self.parts)}),
            "solver": solver,
            "shares": [] if found is None else _records(found.shares),
            "controls": [] if found is None else [asdict(check) for check in found.checks],
        }

    def save(self, folder: str | Path) -> Path:
        """Write the run, whole or not at all. Returns the folder.

        Raises PlaceError (a ValueError) where something else than an earlier run, to which nothing was added, is there.
        """
        with whole_folder(folder, "measure") as fresh:
            self.write(fresh)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the run's files into a fresh folder."""
        (folder / "run.json").write_text(json.dumps(self.manifest, indent=2, default=str) + "\n")
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2, default=str) + "\n")
        write_reports(self.reports, folder)
        arrays: dict[str, Any] = {"states" if self.pictures.is_floating_point() else "images": self.pictures.numpy()}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        np.savez_compressed(folder / "samples.npz", **arrays)
        if self.features is not None:
            self.features.save(folder / "features.npz")
        if self.residual_noise is not None:
            write_table(folder / RESIDUAL_NOISE, self.residual_noise)
        if self.parts is not None:
            write_table(folder / BY_PART, self.parts)
        if self.controls is not None:
            _write_controls(self.controls, folder / "controls")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder; files that were changed or added since are a failed check. Raises FileNotFoundError naming what is
        missing, ReadingError for what was damaged."""
        folder = Path(folder)
        reports = read_reports(folder)
        with reading(folder / "samples.npz", *RUN):
            samples = {key: torch.from_numpy(part) for key, part in read_arrays(folder / "samples.npz", *RUN).items()}
            pictures = samples["images" if "images" in samples else "states"]
            labels = samples.get("labels")
        controls = _read_controls(folder / "controls") if (folder / "controls").exists() else None
        features = Features.load(folder / "features.npz") if (folder / "features.npz").exists() else None
        left = read_table(folder / RESIDUAL_NOISE, *RUN) if (folder / RESIDUAL_NOISE).exists() else None
        parts = read_table(folder / BY_PART, *RUN) if (folder / BY_PART).exists() else None
        manifest = read_manifest(folder)
        _check_counts(folder, manifest, reports, features)
        different = tuple(changed(folder))
        more = tuple(added(folder))
        return cls(manifest, reports, controls, pictures, labels, features, left, parts, different, more)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `run.json` says of a folder. Raises ReadingError when it is missing or damaged."""
    found = read_json(folder / "run.json", *RUN)
    if not isinstance(found, dict):
        raise ReadingError(f"{folder / 'run.json'} says nothing of a run: measure it again")
    return found


def _check_counts(
    folder: Path, manifest: Mapping[str, Any], reports: Mapping[str, ShiftReport], features: Features | None
) -> None:
    """Refuse a folder whose files speak of different numbers of samples: one of them is of another run, or was cut."""
    samples, read = manifest.get("samples"), manifest.get("estimators")
    limits = read if isinstance(read, dict) else {}
    counts = [(len(report.sampled.t), limits.get(name)) for name, report in reports.items()]
    counts += [(len(features.values), None)] if features else []
    for count, limit in counts:
        said = min(samples, limit) if isinstance(limit, int) and isinstance(samples, int) else samples
        if count != said:
            raise ReadingError(f"{folder} holds {count} samples, its run.json says {said}: measure it again")


def run_name(fingerprint: Mapping[str, Any], study: str = "") -> str:
    """What a run's folder is called by default: checkpoint, sampler, guidance, what is done (`study`) and seed, and a short hash
    of all that its numbers depend on, so that two runs share a name only where they are the same.

    Args:
        fingerprint: of the run.
        study: of another command than `measure`, its word.
    """
    guided = in_words(fingerprint["guidance"])
    words = (fingerprint["checkpoint"]["name"], fingerprint["sampler"], "" if guided == "none" else guided, study)
    plain = "-".join(re.sub(r"[^A-Za-z0-9._=+-]+", "-", word).strip("-.") for word in words if word)
    return f"{plain[:110]}-seed-{fingerprint['seed']}-{short_hash(fingerprint, 8)}"


def pictures_of(final_samples: Tensor) -> Tensor:
    """Final samples that are pictures in [-1, 1], (n, 1 or 3, H, W) → uint8; other states stay float32."""
    states = final_samples.detach().float().cpu()
    return to_uint8(states) if states.ndim == 4 and states.shape[1] in (1, 3) else states


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("noiseshift", "torch", "numpy", "scipy", "diffusers")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table with NaN as None: JSON has no NaN."""
    return json.loads(table.to_json(orient="records", double_precision=12))


def _write_controls(controls: Controls, folder: Path) -> None:
    folder.mkdir()
    (folder / "checks.json").write_text(json.dumps([asdict(check) for check in controls.checks], indent=2) + "\n")
    write_table(folder / "null.parquet", controls.null)
    write_table(folder / "level.parquet", controls.level)
    if not controls.shares.empty:
        write_table(folder / "shares.parquet", controls.shares)
    if controls.solver:
        (folder / "solver").mkdir()
        write_reports(controls.solver, folder / "solver")


def _read_controls(folder: Path) -> Controls:
    with reading(folder / "checks.json", *RUN):
        checks = tuple(Check(**check) for check in read_json(folder / "checks.json", *RUN))
    solver = read_reports(folder / "solver") if (folder / "solver").exists() else {}
    null, level = (read_table(folder / f"{name}.parquet", *RUN) for name in ("null", "level"))
    parts = folder / "shares.parquet"
    shares = read_table(parts, *RUN) if parts.exists() else pd.DataFrame()
    return Controls(checks, null, level, solver, shares)
