"""The source of a user's modules, and of all others of theirs that these import: read, never run.

Code of installed packages and of Python itself is known by name; it has a version.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Collection, Iterator
from pathlib import Path

REQUIRED = frozenset(
    {"torch", "numpy", "scipy", "pandas", "diffusers", "safetensors", "torchmetrics", "transformers", "PIL"}
)
"""Libraries that are known by name wherever they lie, as under `pip install --target`: what they hold changes as they are used."""


def has_version(module: str | None) -> bool:
    """Whether code comes with Python, with this library or with an installed package, and so has a version.

    Args:
        module: the name of a module that was imported.
    """
    top = (module or "").partition(".")[0]
    if top == "__main__":  # a script or a notebook, whoever launched it
        return False
    return _known(top) or _is_installed(getattr(sys.modules.get(top), "__file__", None) or "")


def sources(module: str) -> dict[str, str]:
    """SHA-256 of a user's module and of all modules of theirs that it imports, directly or not, by name.

    Args:
        module: its name; it need not have been imported.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found or _known(name.partition(".")[0]) else _file(name)
        if file is None or _is_installed(str(file)):
            continue
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
            waiting += _imports(content, name if file.stem == "__init__" else name.rpartition(".")[0])
    return found


def submodules(module: str, names: Collection[str]) -> set[str]:
    """Names of a user's modules that these attributes of a module may be, and attributes of those, and so on.

    Args:
        module: its name.
        names: of attributes that a function looks up.
    """
    found: set[str] = set()
    waiting = [] if has_version(module) else [module]
    while waiting:
        each = waiting.pop()
        inner = {f"{each}.{name}" for name in names if _file(f"{each}.{name}") is not None} - found
        found |= inner
        waiting += inner
    return found


def imported_by(code: types.CodeType, package: str | None) -> set[str]:
    """Names of the modules that a function imports while it runs, as far as its code says.

    Args:
        code: of the function; the functions inside it are looked at too.
        package: where relative names start.
    """
    import dis

    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    steps = [(step.opname, str(step.argval)) for step in dis.get_instructions(code)]
    words = {word for kind, word in steps if kind == "IMPORT_NAME"}
    parts = (
        {word for kind, word in steps if kind == "IMPORT_FROM"} if words else set()
    )  # modules of a package, or what is in one
    above = {"", *_with_parents(package or "")}
    full = {f"{base}.{word}".strip(".") for base in above for word in words}
    return (full | {f"{base}.{part}" for base in full for part in parts}).union(
        *(imported_by(part, package) for part in inner)
    ) - {""}


def _known(top: str) -> bool:
    return top in sys.stdlib_module_names or top == "noiseshift" or top in REQUIRED


def _is_installed(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file


def _file(name: str) -> Path | None:
    """A module's file; None where there is none, or no such module."""
    module = sys.modules.get(name)
    given = getattr(module, "__file__", None)
    if module is None and (spec := _spec(name)) is not None:
        given = spec.origin
    file = Path(given) if isinstance(given, str) else None
    return file if file is not None and file.is_file() else None


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module that was not imported would come from. Its package is not imported either."""
    parent = name.rpartition(".")[0]
    path: list[str] | None = None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        return importlib.machinery.PathFinder.find_spec(name, path)
    return None


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Names that may be modules, of every import in a source."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, such as a compiled extension
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError, ValueError):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
                yield from _with_parents(base)
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: k + 1]) for k in range(len(parts)))
