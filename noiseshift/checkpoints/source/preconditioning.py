"""Whether a code scales its network's input and answer as EDM does (Karras et al., arXiv 2206.00364, table 1)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from noiseshift.checkpoints.source.values import literal

SKIP, OUT = re.compile(r"(c|sigma)_?skip(_\w+)?", re.IGNORECASE), re.compile(r"(c|sigma)_?out(_\w+)?", re.IGNORECASE)
NUMBERS = ("sigma_data", "sigma_min", "sigma_max")


def preconditioning(tree: ast.AST) -> Iterator[dict[str, float]]:
    """The numbers that are named in a code that has a c_skip and a c_out, one mapping or none.

    Args:
        tree: Of a file, or of one class.
    """
    names = set(_names(tree))
    if any(SKIP.fullmatch(name) for name in names) and any(OUT.fullmatch(name) for name in names):
        found: dict[str, float] = {}
        for name, node in _values(tree):
            value = literal(node, {})
            if value is not None and type(value[0]) in (int, float) and value[0] > 0:
                found.setdefault(name.lower(), float(value[0]))
        yield found


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def _values(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What is given to one of NUMBERS: as a default, by keyword, or by `=`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            given = node.args[len(node.args) - len(node.defaults) :]
            pairs = [(a.arg, d) for a, d in zip(given, node.defaults, strict=True)]
            pairs += [(a.arg, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d is not None]
        elif isinstance(node, ast.keyword):
            pairs = [(node.arg or "", node.value)]
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            pairs = [(target.id if isinstance(target, ast.Name) else getattr(target, "attr", ""), node.value)]
        else:
            continue
        yield from (pair for pair in pairs if pair[0].lower() in NUMBERS)
