"""Finished batches of a run that goes on, beside its folder: what an interrupted run resumes from.

They lie in `.NAME.partial-HASH`, where HASH is of the run's fingerprint: a run with another fingerprint neither reads them
nor removes them. Whoever uses them holds the folder NAME (`noiseshift.writing.claimed`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noiseshift import distributed
from noiseshift.diffusion.identity import differences
from noiseshift.estimators.instrument import Readings
from noiseshift.reading import read_arrays, read_json
from noiseshift.shift.reading import BatchReadings
from noiseshift.writing.unfinished import keeps
from noiseshift.writing.whole import is_temporary, whole_file, write_text

KEPT = "finished batches are kept"

_SHARD = re.compile(r"\d{8,}\.npz")


class Shards:
    """The finished batches of a run, in its folder.

    Args:
        folder: of the run.
        fingerprint: everything that its numbers depend on; batches of another one are not used.
        part: name and further dependencies of one part of the run, whose batches these are; None for the whole.

    Attributes:
        begun: whether some were found.
        rows: how many rows go through the network at once, where that was tried out; those of an interrupted run, so that it goes
            on to the same bits.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, Any], part: Mapping[str, Any] | None = None):
        place = Path(folder)
        self.fingerprint = json.dumps(fingerprint, sort_keys=True, default=str)
        self.root = place.parent / f".{place.name}.partial-{short_hash(fingerprint)}"
        self.folder = self.root / _file_name(part) if part else self.root
        self.name = " ".join([short_hash(fingerprint), *([_file_name(part)] if part else [])])
        distributed.wait()  # all look at the same, before the first writes
        if distributed.joined()[0] == 0:
            _look_around(place, self.root, json.loads(self.fingerprint))
            _tidy(self.folder)
        distributed.wait()
        self.begun = bool(_shards(self.folder))
        if self.begun:
            keeps(self.root, KEPT)
        self.rows = _rows_of(self.root)

    def save(self, start: int, batch: BatchReadings) -> None:
        """Keep the batch that begins at sample `start`.

        Args:
            start: the index of its first sample within the run.
            batch: what is kept of it.
        """
        arrays: dict[str, Any] = {
            "of": np.array(self._name(start)),
            "final": batch.final.cpu().numpy(),
            "steps": batch.steps,
            "size": np.array(batch.size),
        }
        if batch.cond is not None:
            arrays["cond"] = batch.cond.cpu().numpy()
        if batch.parts is not None:
            arrays["parts"] = batch.parts
        for kind, readings in (("sampled", batch.sampled), ("content", batch.content)):
            for name, part in readings.items():
                arrays |= {f"{kind}/{name}/{key}": getattr(part, key) for key in ("t", "log_snr", "density")}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.root / "fingerprint.json").exists():
            write_text(self.root / "fingerprint.json", self.fingerprint)
        if self.rows is not None and not (self.root / "rows.json").exists():
            write_text(self.root / "rows.json", json.dumps(self.rows))
        with whole_file(self._path(start)) as fresh:
            np.savez(fresh, **arrays)
        keeps(self.root, KEPT)

    def load(self, start: int) -> BatchReadings | None:
        """The batch that begins at sample `start`, or None where it is not finished. One that cannot be read, or is another's, is
        removed."""
        path = self._path(start)
        if not path.exists():
            return None
        try:
            return _read(path, self._name(start))
        except MemoryError:
            raise
        except Exception as error:  # whatever zip, zlib and numpy raise about a damaged file
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            logging.getLogger("noiseshift").warning(
                "%s cannot be read, or is no batch of this run: it is removed and made again", path
            )
            path.unlink(missing_ok=True)
            return None

    def whole(self, start: int) -> BatchReadings:
        """The batch that begins at sample `start`. Raises FileNotFoundError when another process's is not to be seen."""
        kept = self.load(start)
        if kept is None:
            raise FileNotFoundError(f"batch {start} is not in {self.folder}: all processes must see the same folder")
        return kept

    def clear(self) -> None:
        """Forget the batches: the run is whole. Under torchrun the first process does."""
        if distributed.joined()[0]:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(path.is_dir() for path in self.root.iterdir()):
            shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npz"

    def _name(self, start: int) -> str:
        """Which batch of which run: a file that was copied or renamed is another's."""
        return f"{self.name} {start}"


def short_hash(fingerprint: Mapping[str, Any], digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a fingerprint.

    Args:
        fingerprint: plain values.
        digits: at most 64.
    """
    wanted = json.dumps(fingerprint, sort_keys=True, default=str)
    return hashlib.sha256(wanted.encode()).hexdigest()[:digits]


def _read(path: Path, name: str) -> BatchReadings:
    arrays = read_arrays(path, "batch of a run", "remove it")
    if str(arrays["of"]) != name:
        raise ValueError(f"it is {arrays['of']}, not {name}")
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
        parts=arrays.get("parts"),
    )


def _file_name(part: Mapping[str, Any]) -> str:
    """A part as a name of its own in any file system."""
    plain = re.sub(r"[^A-Za-z0-9=,.+-]", "_", "-".join(part)).lstrip(".")[:80]
    return f"{plain}-{short_hash(part, 8)}"


def _rows_of(root: Path) -> int | None:
    with suppress(OSError, ValueError):
        found = read_json(root / "rows.json", "number of rows", "remove it")
        return found if type(found) is int and found > 0 else None  # true is an int of Python's
    return None


def _shards(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.npz") if _SHARD.fullmatch(path.name)] if folder.is_dir() else []


def _tidy(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if is_temporary(path):
            path.unlink(missing_ok=True)


def _look_around(place: Path, mine: Path, about: Mapping[str, Any]) -> None:
    """Batches of other runs of this folder: kept and said where there are some, else removed."""
    if mine.exists() or not place.parent.is_dir():
        return
    for other in place.parent.glob(f".{_escaped(place.name)}.partial*"):
        if not other.is_dir() or other.is_symlink():
            continue
        kept = _shards(other)
        if not kept:
            shutil.rmtree(other, ignore_errors=True)
            continue
        logging.getLogger("noiseshift").warning(
            "%s holds %d finished batches of another run (%s): they are not used; remove it, unless that run is to go on",
            other,
            len(kept),
            _difference(other, about),
        )


def _difference(other: Path, about: Mapping[str, Any]) -> str:
    theirs: Any = None
    with suppress(OSError, ValueError):
        theirs = read_json(other / "fingerprint.json", "fingerprint", "remove it")
    if not isinstance(theirs, dict):
        return "of an unknown protocol"
    return differences(theirs, about) or "of another version"


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", os.fspath(name))
