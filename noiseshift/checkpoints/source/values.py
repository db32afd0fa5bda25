"""Plain values in source code: numbers, words, and lists of them, by their names where a file gives them one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

PLAIN = (int, float, str, bool, type(None))


def constants(tree: ast.Module) -> dict[str, Any]:
    """Names that a file sets once, to a plain value."""
    found: dict[str, Any] = {}
    twice: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            value = literal(node.value, {})
            if name in found or value is None:
                twice.add(name)
            else:
                found[name] = value[0]
    return {name: value for name, value in found.items() if name not in twice}


def literal(node: ast.expr, known: Mapping[str, Any]) -> tuple[Any] | None:
    """The value of an expression, in a tuple of one; None where it is none of plain values.

    Args:
        node: Its syntax: a constant, a list or tuple, a negative number, or one operation of two small numbers.
        known: Names with values that it may use.
    """
    if isinstance(node, ast.Name) and node.id in known:
        return (known[node.id],)
    if isinstance(node, ast.List | ast.Tuple):
        parts = [literal(part, known) for part in node.elts]
        values = [part[0] for part in parts if part is not None]
        if len(values) < len(parts):
            return None
        return (values if isinstance(node, ast.List) else tuple(values),)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = literal(node.operand, known)
        return (-inner[0],) if inner is not None and isinstance(inner[0], int | float) else None
    if isinstance(node, ast.BinOp):
        return _computed(node, known)
    if isinstance(node, ast.Constant) and isinstance(node.value, PLAIN):
        return (node.value,)
    return None


def _computed(node: ast.BinOp, known: Mapping[str, Any]) -> tuple[Any] | None:
    """Of two small numbers, such as 10 ** -4 or 1 / 2."""
    sides = [literal(node.left, known), literal(node.right, known)]
    numbers = [side[0] for side in sides if side is not None and isinstance(side[0], int | float)]
    if len(numbers) < 2 or any(abs(number) > 1e6 for number in numbers):
        return None
    left, right = numbers
    if isinstance(node.op, ast.Pow) and abs(right) <= 16 and left > 0:
        return (left**right,)
    if isinstance(node.op, ast.Div) and right:
        return (left / right,)
    if isinstance(node.op, ast.Mult):
        return (left * right,)
    return None


def named(node: ast.AST, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names with plain values that a piece of code gives: defaults of a function, keywords of a call, `add_argument`'s default,
    keys of a mapping, and what is set by `=`.

    Args:
        node: Its syntax.
        known: Names with values that it may use.
    """
    for name, value in _given(node):
        found = None if value is None else literal(value, known)
        if found is not None:
            yield name, found[0]


def _given(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(node, ast.FunctionDef):
        arguments = node.args.args
        yield from ((a.arg, d) for a, d in zip(arguments[::-1], node.args.defaults[::-1], strict=False))
        yield from ((a.arg, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    elif isinstance(node, ast.Call):
        words = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        first = node.args[0] if node.args else None
        if "default" in words and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value.lstrip("-").replace("-", "_"), words["default"]
        yield from words.items()
    elif isinstance(node, ast.Dict):
        yield from ((key.value, value) for key, value in zip(node.keys, node.values, strict=True) if _is_text(key))  # type: ignore[union-attr]
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")), node.value


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
