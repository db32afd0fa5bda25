"""Whether the files of a run folder are as noiseshift wrote them: their SHA-256 is in its mark, and compared when it is read.

This finds what was changed, exchanged, damaged or added; whoever rewrites the mark too is believed. Folders of earlier versions
have no digests, and are read as they are.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from noiseshift.reading import open_ordinary
from noiseshift.writing.marks import MARK, contents, read_mark

READ = (".json", ".parquet", ".npz", ".csv")
"""Suffixes of files that numbers are read from; pages and figures may be edited."""

SENTENCE = "was changed after noiseshift wrote it: what is read from it need not be what was measured"

ADDED = "was added after noiseshift wrote the folder: it need not be of this run"

OPTIONAL = {
    "measure": (
        *("features.npz", "residual-noise.parquet", "parts.parquet", "controls/*.json", "controls/*.parquet"),
        *("controls/solver/*.json", "controls/solver/*.parquet", "controls/solver/*.npz"),
    ),
    "correct": ("figures/samples.png",),
}
"""Files that a folder may lack, by command, and that are read or shown where they are there."""


def digests(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the files that numbers are read from.

    Args:
        folder: where they are.
        files: by their paths relative to it, with slashes.
    """
    return {name: _digest(folder / name) for name in sorted(files) if name.endswith(READ) and name != MARK}


def changed(folder: Path, name: str | None = None) -> list[str]:
    """The files of a folder that are not as noiseshift wrote them, each said in a line on the log. One that is missing is its
    reader's to say.

    Args:
        folder: A run folder, or any other, which has no digests.
        name: Look at this file alone.

    Returns:
        Their paths relative to the folder.
    """
    mark = read_mark(folder)
    known = {} if mark is None else mark.digests
    here = contents(folder) if known else set()  # a mark may name any file of the machine
    found = []
    for each, digest in known.items():
        path = folder / each
        if each in here and name in (None, each) and path.is_file() and (now := _digest(path)) != digest:
            found.append(each)
            _say(path, now, SENTENCE)
    return found


def added(folder: Path) -> list[str]:
    """The files of a folder that are read as parts of its run, and that noiseshift did not write there, each said in a line on the
    log. Other files of a user's are neither read nor said.

    Args:
        folder: A run folder, or any other.

    Returns:
        Their paths relative to the folder.
    """
    mark = read_mark(folder)
    if mark is None or mark.kind not in OPTIONAL:
        return []
    here = contents(folder) - mark.files
    found = sorted(name for name in here if any(fnmatch.fnmatchcase(name, each) for each in OPTIONAL[mark.kind]))
    for name in found:
        _say(folder / name, "", ADDED)
    return found


@functools.lru_cache(maxsize=256)
def _say(path: Path, digest: str, sentence: str) -> None:
    """Once for each state of a file: several readers look at it."""
    logging.getLogger("noiseshift").warning("%s %s", path, sentence)


def _digest(path: Path) -> str:
    with open_ordinary(path) as file:
        found = hashlib.sha256()
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
