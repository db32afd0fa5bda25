"""One class out of a script or notebook: it, and what it uses, are run; the training around it is not."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.source.files import parsed


def defined_in(path: str | Path, name: str) -> Any:
    """A class or function of a `.py` file or a notebook that cannot be imported as it is: a script that would train, or one that
    imports packages which the network does not need. Its definition, and those of the names that it uses, are run.

    Args:
        path: the file.
        name: what is wanted of it.

    Returns:
        The class or function.

    Raises:
        CheckpointError: there is no such file or name, or its code fails.
    """
    path = Path(path)
    source = parsed(path, path.parent)
    if source is None:
        raise CheckpointError(f"{path} is no Python file or notebook that can be read: name another")
    needed = _needed(source.tree, name)
    if not needed:
        raise CheckpointError(f"{path} does not define {name}: name a class of it")
    package = "" if path.is_absolute() else ".".join(path.parent.parts)
    space: dict[str, Any] = {"__name__": path.stem, "__file__": str(path), "__package__": package}
    for node in needed:
        _run(node, space, path)
    if name not in space:
        raise CheckpointError(f"{path}: {name} could not be imported there: install what it needs")
    return space[name]


def _run(node: ast.stmt, space: dict[str, Any], path: Path) -> None:
    code = compile(ast.Module([node], type_ignores=[]), str(path), "exec", dont_inherit=True)
    try:
        exec(code, space)
    except ImportError:
        return  # where the class needs it, its name is missing, and that is said
    except Exception as error:
        raise CheckpointError(f"{path}, line {node.lineno}: {type(error).__name__}: {error}") from error


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements at the top of a file, or in the function that defines it, that a name needs, in their order."""
    binding: dict[str, list[int]] = {}
    body = list(_top(tree.body))
    if not any(name in bound_by(node) for node in body):
        body += _around(tree, name)
    for place, node in enumerate(body):
        for bound in bound_by(node):
            binding.setdefault(bound, []).append(place)
    wanted = [name]
    seen = {name}
    places = set()
    while wanted:
        for place in binding.get(wanted.pop(), []):
            if place in places:
                continue
            places.add(place)
            fresh = _used(body[place]) - seen
            seen |= fresh
            wanted += fresh
    futures = [i for i, node in enumerate(body) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    return [body[place] for place in sorted({*places, *futures})] if places else []


def _around(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of the function, maybe within others, that defines a name which the top of the file does not."""
    waiting: list[tuple[ast.AST, list[ast.stmt]]] = [(tree, [])]
    while waiting:
        node, outer = waiting.pop(0)
        inside = outer + list(_top(node.body)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else outer
        if inside is not outer and any(name in bound_by(statement) for statement in node.body):  # type: ignore[attr-defined]
            return inside
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]
    return []


def _top(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Statements at the top, those under `try` and `if` too, but not what runs only as a script."""
    for node in body:
        if isinstance(node, ast.Try):
            yield from _top(node.body)
        elif isinstance(node, ast.If):
            if "__name__" not in _used(node.test):
                yield from _top([*node.body, *node.orelse])
        else:
            yield node


def bound_by(node: ast.stmt) -> set[str]:
    """The names that a statement at the top defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return set()


def _used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
