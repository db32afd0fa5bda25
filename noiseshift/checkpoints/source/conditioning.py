"""What a code hands its network for a step: the step itself, or a linear function of it such as `net(x, t / (T - 1))`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from noiseshift.checkpoints.source.values import constants, literal

STEP = re.compile(
    r"_?(batch_?)?(t|ts|i|step|steps|time_?steps?|time|t_?idx|idx|k)(_?(batch|scalar|tensor))?", re.IGNORECASE
)
COUNT = re.compile(
    r"t|n_?t|t_?max|(n_?|num_?|max_?|total_?)?(time_?|diffusion_?|train_?|noise_?)*steps?", re.IGNORECASE
)
OPERATIONS = ("torch", "np", "numpy", "math", "F", "nn")
"""Libraries whose functions are no network."""
BUILTINS = (
    "max",
    "min",
    "pow",
    "range",
    "round",
    "print",
    "int",
    "float",
    "zip",
    "map",
    "isinstance",
    "getattr",
    "clamp",
)
LEAST = 10
"""What a step is divided by is no smaller number."""
FILLED = ("full", "full_like")
"""Functions whose second argument is the value of all that they make."""

Line: TypeAlias = tuple[float, float]
"""(a, b) of a k + b, k being the step."""


@dataclass(frozen=True)
class Handed:
    """What stands for the step in a call.

    Attributes:
        text: as code.
    """

    text: str
    _node: ast.expr = field(repr=False)
    _scope: _Scope = field(repr=False)

    def line(self, count: int) -> Line | None:
        """(a, b), where it is a k + b of step k; None where it is anything else, or takes what is not known.

        Args:
            count: the number of steps, by whatever name the code calls it.
        """
        return _line(self._node, self._scope, count)


@dataclass(frozen=True)
class _Scope:
    """What names stand for: numbers of the file, arguments of a network's own `forward`, and steps that were computed with."""

    known: Mapping[str, object]
    given: frozenset[str]
    computed: Mapping[str, tuple[ast.expr, _Scope]]


def handed(tree: ast.Module) -> Iterator[Handed]:
    """What networks are called with in place of their steps, where that is no step as it is.

    Args:
        tree: Of one file.
    """
    known = constants(tree)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.Module):
            yield from _in_function(function, known)


def _in_function(function: ast.FunctionDef | ast.Module, known: Mapping[str, object]) -> Iterator[Handed]:
    own = function.args.args if isinstance(function, ast.FunctionDef) and function.name == "forward" else []
    given = frozenset(argument.arg for argument in own)  # a network's own arithmetic is no call of it
    scope = _Scope(known, given, {})
    for node in _inside(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            others = {key: value for key, value in scope.computed.items() if key != name}
            fresh = {name: (node.value, scope)} if _rescales(node.value, scope) else {}
            scope = _Scope(known, given, others | fresh)
        if isinstance(node, ast.Call) and len(node.args) >= 2 and _is_network(node):
            if _rescales(node.args[1], scope):
                yield Handed(_shown(node.args[1], scope), node.args[1], scope)


def _is_network(call: ast.Call) -> bool:
    """Whether a call may be one of a network: not of an operation, nor of numbers."""
    first: ast.expr = call.func
    while isinstance(first, ast.Attribute):
        first = first.value
    name = getattr(first, "id", "")
    return name not in (*OPERATIONS, *BUILTINS) and not isinstance(call.args[0], ast.Constant)


def _inside(function: ast.FunctionDef | ast.Module) -> Iterator[ast.AST]:
    """What is in a function, or at the top of a file, in its order, but not in functions that are defined there."""
    for node in function.body:
        yield from _within(node)


def _within(statement: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement, each before what it is a part of: a value is computed before it has a name."""
    waiting = [(statement, False)]
    while waiting:
        node, seen = waiting.pop()
        if seen:
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            waiting.append((node, True))
            waiting += [(child, False) for child in ast.iter_child_nodes(node)][::-1]


def _rescales(node: ast.expr, scope: _Scope) -> bool:
    """Whether a step is divided or multiplied by what may be a number of steps, here or in what a name stands for."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in scope.computed:
            return True
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div | ast.Mult):
            pairs = [(part.left, part.right), (part.right, part.left)][: 1 + isinstance(part.op, ast.Mult)]
            if any(_has_step(step, scope) and _is_count(number, scope) for step, number in pairs):
                return True
    return False


def _is_count(node: ast.expr, scope: _Scope) -> bool:
    """Whether an expression may be a number of steps."""
    value = literal(node, scope.known)
    if value is None or type(value[0]) not in (int, float):
        words = [_word(part) for part in ast.walk(node)]
        return any(COUNT.fullmatch(word) and word != "t" for word in words)
    return bool(value[0] >= LEAST)


def _has_step(node: ast.expr, scope: _Scope) -> bool:
    words = (_word(part) for part in ast.walk(node))
    return any(STEP.fullmatch(word) and word not in scope.given for word in words if word)


def _word(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _shown(node: ast.expr, scope: _Scope) -> str:
    """An expression as code, or what its name stands for."""
    if isinstance(node, ast.Name) and node.id in scope.computed:
        return f"{node.id} = {ast.unparse(scope.computed[node.id][0])}"
    return ast.unparse(node)


def _line(node: ast.expr, scope: _Scope, count: int, below: bool = False) -> Line | None:
    """(a, b) of an expression; `below` a fraction's line, a name is that of a number."""
    number = literal(node, scope.known)
    if number is not None:
        return (0.0, float(number[0])) if type(number[0]) in (int, float) else None
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(node, scope, count, below)
    if isinstance(node, ast.Call):
        value = _value(node)
        return None if value is None else _line(value, scope, count, below)
    if isinstance(node, ast.Subscript):
        return _line(node.value, scope, count, below)
    if isinstance(node, ast.List | ast.Tuple):
        return _line(node.elts[0], scope, count, below) if len(node.elts) == 1 else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _line(node.operand, scope, count, below)
        return None if inner is None else (-inner[0], -inner[1])
    return _combined(node, scope, count, below) if isinstance(node, ast.BinOp) else None


def _named(node: ast.Name | ast.Attribute, scope: _Scope, count: int, below: bool) -> Line | None:
    word = _word(node)
    if isinstance(node, ast.Name) and word in scope.computed:
        return _line(*scope.computed[word], count, below)
    if isinstance(node, ast.Name) and word in scope.given:
        return None
    if COUNT.fullmatch(word) and (below or word == "T"):
        return 0.0, float(count)
    if word in ("one", "ones"):
        return 0.0, 1.0
    return (1.0, 0.0) if STEP.fullmatch(word) else None


def _value(call: ast.Call) -> ast.expr | None:
    """What a call leaves as it is: `t.float()`, `float(t)`, `torch.tensor([t])`, `torch.full((n,), t)`; a number for `ones`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in FILLED and len(call.args) > 1:
        return call.args[1]
    if name in ("ones", "ones_like"):
        return ast.Constant(1)
    library = isinstance(call.func, ast.Attribute) and _word(call.func.value) in OPERATIONS
    if isinstance(call.func, ast.Attribute) and not library:
        return call.func.value if name not in ("sin", "cos", "log", "exp", "sqrt", "pow", "square") else None
    return call.args[0] if name in ("float", "int", "tensor", "as_tensor", "array") and call.args else None


def _combined(node: ast.BinOp, scope: _Scope, count: int, below: bool) -> Line | None:
    divides = isinstance(node.op, ast.Div)
    multiplies = isinstance(node.op, ast.Mult)
    left = _line(node.left, scope, count, below or (multiplies and not _has_step(node.left, scope)))
    right = _line(node.right, scope, count, below or divides or (multiplies and _has_step(node.left, scope)))
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Add):
        return left[0] + right[0], left[1] + right[1]
    if isinstance(node.op, ast.Sub):
        return left[0] - right[0], left[1] - right[1]
    if isinstance(node.op, ast.Mult) and not (left[0] and right[0]):
        return left[0] * right[1] + right[0] * left[1], left[1] * right[1]
    if divides and not right[0] and right[1]:
        return left[0] / right[1], left[1] / right[1]
    return None
