"""Schedules of Song's stochastic differential equations in a code or in a file's settings: their kind, by the formula, and their
numbers (Song et al., arXiv 2011.13456)."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noiseshift.checkpoints.source.files import Source
from noiseshift.checkpoints.source.values import constants, literal, named

NUMBERS = {
    "beta_min": re.compile(r"beta_?(min|0)|b_min|min_beta", re.IGNORECASE),
    "beta_max": re.compile(r"beta_?(max|1)|b_max|max_beta", re.IGNORECASE),
    "sigma_min": re.compile(r"sigma_?min|min_sigma|smin", re.IGNORECASE),
    "sigma_max": re.compile(r"sigma_?max|max_sigma|smax", re.IGNORECASE),
    "sigma": re.compile(r"sigma", re.IGNORECASE),
}
KINDS = {
    "variance-preserving": ("beta_min", "beta_max"),
    "sub-variance-preserving": ("beta_min", "beta_max"),
    "variance-exploding": ("sigma_min", "sigma_max"),
    "variance-exploding-sde": ("sigma",),
}
USUAL = {"beta_min": 0.1, "beta_max": 20.0}
"""What nearly all take."""
PRESERVING, SUB = re.compile(r"vp_?(sde)?(_.*)?", re.IGNORECASE), re.compile(r"sub_?vp_?(sde)?(_.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Stochastic:
    """A schedule of this kind.

    Attributes:
        words: as a card describes it.
        doubt: what else is shown, "" for nothing.
    """

    words: Mapping[str, Any]
    doubt: str = ""


def stochastic(found: Sequence[Source]) -> Stochastic | None:
    """The schedule that some files show; None for none.

    Args:
        found: The parsed files.
    """
    numbers = {name: Counter[float]() for name in NUMBERS}
    for source in found:
        for name, value in _numbers(source.tree):
            numbers[name][value] += 1
    shown = [kind for kind in KINDS if any(_shows(kind, source.tree) for source in found)]
    most = {name: counter.most_common(1)[0][0] for name, counter in numbers.items() if counter}
    betas = most.get("beta_min", 1.0) < 1 <= most.get("beta_max", 0.0)
    if betas and "variance-preserving" not in shown and "sub-variance-preserving" not in shown:
        shown.append("variance-preserving")
    return _chosen(shown, most)


def in_settings(settings: Mapping[str, Any]) -> Stochastic | None:
    """The schedule that a file's own settings name: betas of a continuous one.

    Args:
        settings: Plain values by their names.
    """
    values = {name: value for word, value in settings.items() for name in _names(word) if _is_number(value)}
    betas = values.get("beta_min", 1.0) < 1 <= values.get("beta_max", 0.0)
    return _chosen(["variance-preserving"], values) if betas else None


def _chosen(kinds: Sequence[str], numbers: Mapping[str, float]) -> Stochastic | None:
    if not kinds:
        return None
    known = USUAL | dict(numbers)
    words = [{"kind": kind, **{name: known[name] for name in KINDS[kind] if name in known}} for kind in kinds]
    return Stochastic(words[0], ", ".join(kinds[1:]))


def _names(word: str) -> Iterator[str]:
    yield from (name for name, pattern in NUMBERS.items() if pattern.fullmatch(word.rpartition(".")[2]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e5


def _numbers(tree: ast.Module) -> Iterator[tuple[str, float]]:
    known = constants(tree)
    for node in ast.walk(tree):
        for word, value in named(node, known):
            for name in _names(word):
                if _is_number(value):
                    yield name, float(value)


def _shows(kind: str, tree: ast.Module) -> bool:
    """Whether a file has the formula of a kind, or a class that is named so."""
    if kind == "variance-exploding-sde":
        return any(_grows_from_none(node) for node in ast.walk(tree))
    if kind == "variance-exploding":
        return any(_is_geometric(node) for node in ast.walk(tree))
    pattern = SUB if kind.startswith("sub") else PRESERVING
    return any(
        isinstance(node, ast.ClassDef | ast.FunctionDef) and pattern.fullmatch(node.name) for node in ast.walk(tree)
    )


def _word(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _power(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """Base and exponent of `a ** b` or `pow(a, b)`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.left, node.right
    if isinstance(node, ast.Call) and _word(node.func) == "pow" and len(node.args) == 2:
        return node.args[0], node.args[1]
    return None


def _grows_from_none(node: ast.AST) -> bool:
    """sigma ** (2 * t) - 1."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
        return False
    power = _power(node.left)
    one = literal(node.right, {})
    if power is None or one is None or one[0] != 1 or not NUMBERS["sigma"].fullmatch(_word(power[0])):
        return False
    return any(isinstance(part, ast.Constant) and part.value == 2 for part in ast.walk(power[1]))


def _is_geometric(node: ast.AST) -> bool:
    """(sigma_max / sigma_min) ** t."""
    power = _power(node)
    if power is None or not (isinstance(power[0], ast.BinOp) and isinstance(power[0].op, ast.Div)):
        return False
    above, below = _word(power[0].left), _word(power[0].right)
    return bool(NUMBERS["sigma_max"].fullmatch(above) and NUMBERS["sigma_min"].fullmatch(below))
