"""What runs need again, in the user's cache folder: calibrations, checks of a checkpoint, final samples of the content control,
and how many rows go at once.

A file is known by everything that decides its numbers: the checkpoint, the data, the protocol's part in it, this package's own
source and torch. That is in the file too and compared; whatever differs, or cannot be read, is made anew. Nothing is kept for
models of a user's own code, which nobody can compare.

`NOISESHIFT_CACHE` names another folder; "off" keeps nothing, nor does `--no-cache`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from noiseshift.reading import read_arrays
from noiseshift.writing import BusyError, PlaceError, replaced_file

MOST, BYTES = 300, 1_000_000_000
"""Files and bytes that the folder holds; the ones that were written first go first."""

_OFF: ContextVar[bool] = ContextVar("nothing is kept", default=False)


def folder() -> Path | None:
    """Where things are kept, or None where nothing is."""
    said = os.environ.get("NOISESHIFT_CACHE")
    if _OFF.get() or said in ("", "off"):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(said or f"{base}/noiseshift").expanduser()
    except RuntimeError:  # a user without a home, as in containers
        return None


@contextlib.contextmanager
def turned_off() -> Iterator[None]:
    """Nothing is read from the cache folder or written to it inside."""
    before = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(before)


def load(kind: str, about: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays of this kind that were saved under the same `about`, or None.

    Args:
        kind: such as "preflight".
        about: everything that decides the arrays, in plain values.
    """
    place, words = _place(kind, about)
    if place is None:
        return None
    try:
        if not place.is_file():
            return None
        arrays = read_arrays(place, "file of the cache", "remove it")
    except (OSError, ValueError):
        return None
    return arrays if str(arrays.pop("about", "")) == words else None


def save(kind: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays for `load`. A folder that cannot be written is no error: nothing is kept there.

    Args:
        kind: such as "preflight".
        about: everything that decides the arrays, in plain values.
        arrays: by name; "about" is taken.
    """
    place, words = _place(kind, about)
    if place is None:
        return
    # BusyError: another process is writing the same arrays. What a killed one left of them goes.
    with contextlib.suppress(OSError, BusyError, PlaceError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(place, lambda path: True) as fresh:
            written: dict[str, Any] = {"about": np.array(words), **arrays}
            np.savez(fresh, **written)
        _thin_out(place.parent)


def _place(kind: str, about: Mapping[str, Any]) -> tuple[Path | None, str]:
    words = json.dumps({**about, "software": software()}, sort_keys=True)
    here = folder()
    name = f"{kind}-{hashlib.sha256(words.encode()).hexdigest()[:32]}.npz"
    return None if here is None else here / name, words


@functools.cache
def software() -> dict[str, str]:
    """What computes: this package's source as it is, the libraries' versions, the kind of machine."""
    source = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        source.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    versions = {name: metadata.version(name) for name in ("noiseshift", "torch", "diffusers", "numpy", "scipy")}
    return {"source": source.hexdigest(), "machine": platform.machine(), **versions}


def _thin_out(place: Path) -> None:
    found = sorted(((path.stat(), path) for path in place.glob("*-*.npz")), key=lambda entry: -entry[0].st_mtime)
    room = BYTES
    for number, (about, path) in enumerate(found):
        room -= about.st_size
        if number >= MOST or room < 0:
            path.unlink(missing_ok=True)
