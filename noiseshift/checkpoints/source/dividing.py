"""Whether a network is called with its step divided by the number of steps, `net(x, t / n_T)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from noiseshift.checkpoints.source.values import constants, literal

STEP = re.compile(r"_?(t|ts|i|step|steps|time_?steps?|time|t_?idx|k)", re.IGNORECASE)
COUNT = re.compile(
    r"t|n_?t|t_?max|(n_?|num_?|max_?|total_?)?(time_?|diffusion_?|train_?|noise_?)*steps?", re.IGNORECASE
)
OPERATIONS = ("torch", "np", "numpy", "math", "F", "nn")
"""Libraries whose functions are no network."""


def divisors(tree: ast.Module) -> Iterator[int]:
    """What steps are divided by where a network is called with them: a number, or 0 for one that only has a name.

    Args:
        tree: Of one file.
    """
    known = constants(tree)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.Module):
            continue
        own = function.args.args if isinstance(function, ast.FunctionDef) and function.name == "forward" else []
        given = {argument.arg for argument in own}  # a network's own arithmetic is no call of it
        named = {}
        for node in _inside(function):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                found = _division(node.value, given, known)
                if found is not None:
                    named[node.targets[0].id] = found
        for node in _inside(function):
            if isinstance(node, ast.Call) and len(node.args) >= 2 and not _is_operation(node.func):
                time = node.args[1]
                found = named.get(time.id) if isinstance(time, ast.Name) else _division(time, given, known)
                if found is not None:
                    yield found


def _inside(function: ast.FunctionDef | ast.Module) -> Iterator[ast.AST]:
    """What is in a function, or at the top of a file, but not in functions that are defined there."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _division(node: ast.expr, given: set[str], known: dict[str, object]) -> int | None:
    """Of `t / T` anywhere in an expression: T, or 0 where it is not known."""
    for part in ast.walk(node):
        if not (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div)):
            continue
        step, count = _word(part.left), _word(part.right)
        if not STEP.fullmatch(step) or step in given:
            continue
        value = literal(part.right, known)
        if value is not None and type(value[0]) in (int, float):
            return int(value[0]) if value[0] >= 10 else None
        if COUNT.fullmatch(count):
            return 0
    return None


def _word(node: ast.expr) -> str:
    """The name of a variable or attribute, without `.float()`, `float(...)` and indices around it."""
    while True:
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                node = node.func.value
            elif isinstance(node.func, ast.Name) and len(node.args) == 1:
                node = node.args[0]
            else:
                return ""
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_operation(function: ast.expr) -> bool:
    first = function
    while isinstance(first, ast.Attribute):
        first = first.value
    return getattr(first, "id", "") in OPERATIONS
