"""What a pickle would run: its names are listed, nothing is imported."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any


class Inert:
    """Stands for whatever a pickle names: takes any call, state or item, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def _ignore(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    __setstate__ = __setitem__ = __call__ = append = extend = add = update = _ignore


class Lister(pickle._Unpickler):
    """Walks a pickle with `Inert` for every name, and keeps the names. In Python: its twin in C makes room for as many objects
    as a file claims to remember."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream)
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> type[Inert]:
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 called it, and old protocols do
        self.names.append(f"{module}.{name}")
        return type(name, (Inert,), {})

    def persistent_load(self, key: Any) -> Inert:
        return Inert()


def names_in(path: Path) -> list[str]:
    """The names that loading `path` would import and may call, sorted, without those that `weights_only` allows.

    A pickle within a pickle is listed as the function that would read it.
    """
    from torch._weights_only_unpickler import _get_allowed_globals

    harmless = {"collections.OrderedDict", "argparse.Namespace", *_get_allowed_globals()}
    found: set[str] = set()
    for stream in _pickles(path):
        with stream:
            lister = Lister(stream)
            try:
                while True:  # old files are several pickles in a row
                    lister.load()
            except Exception:  # the end, or damage that loading will name
                found.update(lister.names)
    return sorted(found - harmless)


def _pickles(path: Path) -> list[IO[bytes]]:
    if not zipfile.is_zipfile(path):
        return [path.open("rb")]
    try:
        with zipfile.ZipFile(path) as archive:
            return [io.BytesIO(archive.read(name)) for name in archive.namelist() if name.endswith(".pkl")]
    except Exception:  # damage that loading will name
        return []
