"""Run folders: what `noiseshift measure` found, in files that pandas and a text editor open.

`run.json` everything needed to repeat the run; `shift.parquet` one row a state and step; `posteriors.npz` mean
posteriors; `summary.json` the tables; `controls/` the same for the controls; `samples.npz` the first pictures.
Written to a temporary sibling first and moved into place at the end: a folder is whole or absent.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift import distributed
from noiseshift.data import to_uint8
from noiseshift.diffusion.identity import differences
from noiseshift.estimators.instrument import Readings
from noiseshift.evaluation.distances import Features
from noiseshift.reading import ReadingError, read_arrays, read_json, read_table, reading
from noiseshift.shift.controls import Check, Controls
from noiseshift.shift.reading import BatchReadings
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.storage import RUN, read_reports, write_reports
from noiseshift.shift.summary import RunAnswer, run_answer


@dataclass(frozen=True)
class Run:
    """Everything one measurement found. `pictures` (n ≤ 64, C, H, W) are the first finals, decoded to uint8, of classes
    `labels`; `features` what an extractor saw of all finals, where one was asked."""

    manifest: dict[str, Any]
    reports: dict[str, ShiftReport]
    controls: Controls | None
    pictures: Tensor
    labels: Tensor | None
    features: Features | None = None

    @functools.cached_property
    def answer(self) -> RunAnswer:
        """Whether there is any shift, at one error rate over all levels and estimators, and whether estimators disagree."""
        return run_answer(self.reports)

    def table(self) -> pd.DataFrame:
        """All estimators' tables, one under another, with a column `estimator`."""
        tables = [report.table().assign(estimator=name) for name, report in self.reports.items()]
        return pd.concat(tables, ignore_index=True)

    def summary(self) -> dict[str, Any]:
        """The manifest, the run's p-values, each estimator's table and the controls' outcome, ready for JSON."""
        found = self.controls
        solver = {} if found is None else {f"{k}": _records(r.table()) for k, r in found.solver.items()}
        return {
            "run": self.manifest,
            "run_p": {name: None if np.isnan(p) else p for name, p in self.answer.p.items()},
            "shift": {name: _records(report.table()) for name, report in self.reports.items()},
            "solver": solver,
            "controls": [] if found is None else [asdict(check) for check in found.checks],
        }

    def save(self, folder: str | Path) -> Path:
        """Write the run, whole or not at all; an existing run of that name is replaced. Returns the folder."""
        with whole_folder(folder) as fresh:
            self._write(fresh)
        return Path(folder)

    def _write(self, folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps(self.manifest, indent=2, default=str) + "\n")
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2, default=str) + "\n")
        write_reports(self.reports, folder)
        arrays: dict[str, Any] = {"images": self.pictures.numpy()}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        np.savez_compressed(folder / "samples.npz", **arrays)
        if self.features is not None:
            self.features.save(folder / "features.npz")
        if self.controls is not None:
            _write_controls(self.controls, folder / "controls")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder. Raises FileNotFoundError naming what is missing."""
        folder = Path(folder)
        reports = read_reports(folder)
        with reading(folder / "samples.npz", *RUN):
            samples = {key: torch.from_numpy(part) for key, part in read_arrays(folder / "samples.npz", *RUN).items()}
            pictures, labels = samples["images"], samples.get("labels")
        controls = _read_controls(folder / "controls") if (folder / "controls").exists() else None
        features = Features.load(folder / "features.npz") if (folder / "features.npz").exists() else None
        return cls(read_manifest(folder), reports, controls, pictures, labels, features)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `run.json` says of a folder. Raises ReadingError when it is missing or damaged."""
    found = read_json(folder / "run.json", *RUN)
    if not isinstance(found, dict):
        raise ReadingError(f"{folder / 'run.json'} says nothing of a run: measure it again")
    return found


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A fresh folder to write to; it takes the name `folder`, and the place of what was there, once all is written."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    fresh.mkdir()  # not tempfile's, which only its owner could read
    try:
        yield fresh
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def pictures_of(finals: Tensor) -> Tensor:
    """Finals in [-1, 1] (n, C, H, W) → uint8."""
    return to_uint8(finals.detach().float().cpu())


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
    controls.null.to_parquet(folder / "null.parquet")
    controls.level.to_parquet(folder / "level.parquet")
    if controls.solver:
        (folder / "solver").mkdir()
        write_reports(controls.solver, folder / "solver")


def _read_controls(folder: Path) -> Controls:
    with reading(folder / "checks.json", *RUN):
        checks = tuple(Check(**check) for check in read_json(folder / "checks.json", *RUN))
    solver = read_reports(folder / "solver") if (folder / "solver").exists() else {}
    null, level = (read_table(folder / f"{name}.parquet", *RUN) for name in ("null", "level"))
    return Controls(checks, null, level, solver)


class Shards:
    """Finished batches of a run that goes on, beside its folder: what an interrupted run resumes from.

    `fingerprint` is what the run depends on; batches kept under another fingerprint are thrown away. `begun`: some were
    found under this one.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, Any]):
        folder = Path(folder)
        self.folder = folder.parent / f".{folder.name}.partial"
        wanted = json.dumps(fingerprint, sort_keys=True, default=str)
        about = self.folder / "fingerprint.json"
        stale = self.folder.exists() and (not about.exists() or about.read_text() != wanted)
        self.begun = self.folder.exists() and not stale
        distributed.wait()  # all have looked before the first throws anything away
        if stale:
            _say_not_used(about, wanted)
            self.clear()
        distributed.wait()
        self.fingerprint = wanted

    def save(self, start: int, batch: BatchReadings) -> None:
        """Keep the batch that begins at sample `start`."""
        arrays: dict[str, Any] = {
            "final": batch.final.cpu().numpy(),
            "steps": batch.steps,
            "size": np.array(batch.size),
        }
        if batch.cond is not None:
            arrays["cond"] = batch.cond.cpu().numpy()
        for kind, readings in (("sampled", batch.sampled), ("content", batch.content)):
            for name, part in readings.items():
                arrays |= {f"{kind}/{name}/{key}": getattr(part, key) for key in ("t", "log_snr", "density")}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "fingerprint.json").write_text(self.fingerprint)
        unfinished = self.folder / f"unfinished-{start:08d}.npz"
        np.savez(unfinished, **arrays)
        unfinished.replace(self.folder / f"{start:08d}.npz")

    def load(self, start: int) -> BatchReadings | None:
        """The batch that begins at sample `start`, or None when it has not been finished."""
        path = self.folder / f"{start:08d}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        parts: dict[str, dict[str, Readings]] = {"sampled": {}, "content": {}}
        for kind, name in sorted({tuple(key.split("/")[:2]) for key in arrays if "/" in key}):
            parts[kind][name] = Readings(*(arrays[f"{kind}/{name}/{key}"] for key in ("t", "log_snr", "density")))
        return BatchReadings(
            size=int(arrays["size"]),
            final=torch.from_numpy(arrays["final"]),
            cond=torch.from_numpy(arrays["cond"]) if "cond" in arrays else None,
            steps=arrays["steps"],
            sampled=parts["sampled"],
            content=parts["content"],
        )

    def whole(self, start: int) -> BatchReadings:
        """The batch that begins at sample `start`. Raises FileNotFoundError when another process's is not to be seen."""
        kept = self.load(start)
        if kept is None:
            raise FileNotFoundError(f"batch {start} is not in {self.folder}: all processes must see the same folder")
        return kept

    def clear(self) -> None:
        """Forget the batches: the run is whole, or is another one. Under torchrun the first process does."""
        if distributed.joined()[0] == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def _say_not_used(about: Path, wanted: str) -> None:
    """On the log: batches were kept here, and why they are of no use."""
    if not about.exists():
        return
    kept = len(list(about.parent.glob("[0-9]*.npz")))
    other = differences(json.loads(about.read_text()), json.loads(wanted))
    logging.getLogger("noiseshift").warning(
        "%s holds %d finished batches of another run (%s): they are not used", about.parent, kept, other
    )
