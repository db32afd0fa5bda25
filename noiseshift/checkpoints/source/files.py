"""Python files and notebooks as syntax trees. Nothing in them is run."""

from __future__ import annotations

import ast
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noiseshift.reading import open_ordinary

MOST_FILES, LARGEST, DEEPEST = 400, 1 << 22, 6
"""Files that are looked at, bytes of one, and folders below the first."""
SKIPPED = {"site-packages", "node_modules", "__pycache__", "build", "dist", "venv", "env"}


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: below the folder that was searched.
        tree: its syntax; of a notebook that of all code cells, one after the other.
        text: what was parsed.
    """

    path: Path
    tree: ast.Module
    text: str

    @property
    def module(self) -> str | None:
        """Its name for an import, None where it has none."""
        parts = [*self.path.parent.parts, self.path.stem]
        if parts[-1] == "__init__":
            parts = parts[:-1]
        return ".".join(parts) if parts and self.path.suffix == ".py" and all(p.isidentifier() for p in parts) else None


def sources(folder: Path) -> list[Source]:
    """The Python files and notebooks in a folder and below, those that can be parsed."""
    found = []
    for path in _files(folder):
        source = parsed(path, folder)
        if source is not None:
            found.append(source)
    return found


def parsed(path: Path, folder: Path) -> Source | None:
    """One file's syntax, None where it has none or is larger than 4 MB.

    Args:
        path: A Python file, or a notebook, of which the Python cells count.
        folder: A folder above it; `Source.path` is relative to it.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        with open_ordinary(path) as file:
            text = file.read(LARGEST + 1).decode("utf-8")
        code = _cells(text) if path.suffix == ".ipynb" else text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in other people's strings
            return Source(path.relative_to(folder), ast.parse(code), code)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED and depth < DEEPEST)
        for name in sorted(names):
            if name.endswith((".py", ".ipynb")):
                count += 1
                if count > MOST_FILES:
                    return
                yield Path(place, name)


def _cells(text: str) -> str:
    """The code cells that are Python, without lines for the shell."""
    cells = ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell.get("cell_type") == "code")
    whole = ("\n".join("" if line.lstrip().startswith(("!", "%")) else line for line in c.splitlines()) for c in cells)
    return "\n".join(cell for cell in whole if _is_python(cell))


def _is_python(cell: str) -> bool:
    try:
        ast.parse(cell)
    except SyntaxError:
        return False
    return True
