"""Plain values in source code: numbers, words, and lists of them, by their names where a file gives them one value."""

from __future__ import annotations

import ast
from collections.abc import Mapping
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
