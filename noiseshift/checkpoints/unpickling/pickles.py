"""What a pickle would run: its names are listed, nothing is imported."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

from noiseshift.checkpoints.unpickling.guarded import Bounded
from noiseshift.checkpoints.unpickling.lister import Lister
from noiseshift.checkpoints.unpickling.reader import ZIP, harmless
from noiseshift.reading import check_zip, open_ordinary, size_of


def names_in(path: Path) -> list[str]:
    """The names that loading `path` would import and may call, sorted, without the harmless ones.

    A pickle within a pickle is listed as the function that would read it.
    """
    found: set[str] = set()
    for stream in _pickles(path):
        with stream:
            lister = Lister(Bounded(stream))
            try:
                while True:  # old files are several pickles in a row
                    lister.load()
            except Exception:  # the end, or damage that loading will name
                found.update(lister.names)
    return sorted(found - harmless())


def _pickles(path: Path) -> list[BinaryIO]:
    file = open_ordinary(path)
    if file.read(4) != ZIP:
        file.seek(0)
        return [file]
    try:
        with file, zipfile.ZipFile(file) as archive:
            check_zip(archive, size_of(file))
            return [io.BytesIO(archive.read(name)) for name in archive.namelist() if name.endswith(".pkl")]
    except Exception:  # damage that loading will name
        return []
