"""What the training code beside a checkpoint does with its data and noise: betas, the mixing of a flow, the range of pixels."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from noiseshift.checkpoints.source.conditioning import Handed, handed
from noiseshift.checkpoints.source.files import Source
from noiseshift.checkpoints.source.preconditioning import preconditioning
from noiseshift.checkpoints.source.stochastic import Stochastic, stochastic
from noiseshift.checkpoints.source.values import constants, literal

STEPS = re.compile(
    r"t|n_?t|t_?max|steps?|n_?steps|time_?steps|num_?(time_?|diffusion_?|train_?|noise_?)?(time)?steps|noise_?steps|diffusion_?steps|"
    r"max_?t(imesteps?)?|num_train_timesteps|total_?steps",
    re.IGNORECASE,
)
FIRST = re.compile(r"beta_?(start|min|1|_?0|low|begin)|start|b_?0|min_beta|beta1", re.IGNORECASE)
LAST = re.compile(r"beta_?(end|max|2|t|high|stop)|end|b_?1|max_beta|beta2", re.IGNORECASE)
NEAR, GIVEN, USUAL = 10, 3, 1
"""Weights of what a file near the checkpoint says, of a number that is given, and of a function's usual one."""
SIZES = {
    "MNIST": (1, 28),
    "FashionMNIST": (1, 28),
    "KMNIST": (1, 28),
    "EMNIST": (1, 28),
    "CIFAR10": (3, 32),
    "CIFAR100": (3, 32),
}


@dataclass(frozen=True)
class Training:
    """What a training shows; None where it does not.

    Attributes:
        betas: words of a discrete schedule: beta_start, beta_end, and steps where they are known; or betas: cosine.
        certain: whether the code has one number of steps only.
        epsilon: whether a loss compares with the noise that was drawn.
        to_data: of a straight path between data and noise, whether its t = 1 is the data.
        doubt: what else the code has of the kind: "a straight path", "a cosine table", "" for nothing.
        handed: what networks are called with in place of the step or time, where that is not as it is.
        edm: where it preconditions as EDM does, sigma_data, sigma_min and sigma_max, those that it names.
        range: what black and white are.
        shape: (channels, side) of a data set that is known by name, or of a batch that is drawn.
        null: a number that is called the null class.
        sde: a schedule of a stochastic differential equation, continuous in t.
        score: whether a loss adds the noise that was drawn to an answer times its spread.
        learned: what its network predicts, as its own settings say it.
        count: the number of steps that the code names most often.
        raw: whether pixels come from ToTensor or a division by 255, and nothing shows that they are changed after.
    """

    betas: dict[str, Any] | None
    certain: bool
    epsilon: bool
    to_data: bool | None
    range: tuple[float, float] | None
    shape: tuple[int, int] | None
    null: int | None
    doubt: str = ""
    handed: tuple[Handed, ...] = ()
    raw: bool = False
    sde: Stochastic | None = None
    score: bool = False
    count: int | None = None
    learned: str | None = None
    edm: dict[str, float] | None = None


def training_of(found: Sequence[Source], near: Collection[Source] = ()) -> Training:
    """What the code in these files shows of a training.

    Args:
        found: The parsed files.
        near: Those among them that name the checkpoint or hold its network; they count more.
    """
    steps: Counter[int] = Counter()
    shapes: Counter[tuple[int, int]] = Counter()
    for source in found:
        factor = NEAR if any(source is one for one in near) else 1
        for number, weight in _steps(source.tree):
            steps[number] += factor * weight
        for shape in _shapes(source):
            shapes[shape] += factor
    close = [source for source in found if any(source is one for one in near)]
    path = _path(close, steps) or _path(found, steps) or _Path(None, None, "")
    scoring = any(_learns_score(source.tree) for source in found)
    ranges = Counter(ends for source in found for ends in _ranges(source.tree))
    return Training(
        betas=path.betas,
        certain=len(steps) == 1,
        epsilon=any(_compares_with_noise(source.tree) for source in found),
        to_data=path.to_data,
        range=ranges.most_common(1)[0][0] if len(ranges) == 1 else None,
        shape=shapes.most_common(1)[0][0] if shapes else None,
        null=next((number for source in found for number in _nulls(source.tree)), None),
        doubt=path.doubt,
        edm=next((values for source in [*close, *found] for values in preconditioning(source.tree)), None),
        handed=_handed(close) or _handed(found),
        raw=not ranges and any(_raw(source.tree) for source in found),
        sde=path.sde,
        score=scoring,
        count=steps.most_common(1)[0][0] if steps else None,
    )


def _handed(found: Sequence[Source]) -> tuple[Handed, ...]:
    """What stands for the step in these files' calls."""
    return tuple(call for source in found for call in handed(source.tree))


@dataclass(frozen=True)
class _Path:
    """What lies between data and noise, as some files show it; `doubt` is what else they show."""

    betas: dict[str, Any] | None
    to_data: bool | None
    doubt: str
    sde: Stochastic | None = None


def _path(found: Sequence[Source], steps: Counter[int]) -> _Path | None:
    """What these files show, None for nothing. Of files that show both kinds, a table counts."""
    straight = {way for source in found for way in _ways(source)}
    to_data = straight.pop() if len(straight) == 1 else None
    betas = _betas(found, steps)
    sde = stochastic(found)
    if betas is None and to_data is None:
        return None if sde is None else _Path(None, None, "", sde)
    if betas is None:
        return _Path(None, to_data, "" if sde is None else "a stochastic differential equation")
    others = sorted(_tables(found) - {"linear", betas.get("betas", "linear")})
    doubt = "a straight path" if to_data is not None else " and ".join(f"a {kind} table" for kind in others)
    return _Path(betas, to_data, doubt)


def _nulls(tree: ast.Module) -> Iterator[int]:
    """Numbers that are named as a class for none is; 0 only where the name says that it is a class or a label."""
    for name, value in constants(tree).items():
        if re.search(r"null|uncond", name, re.IGNORECASE) and type(value) is int:
            if value or re.search(r"class|label|token|idx|index|id$|y$", name, re.IGNORECASE):
                yield value


def _betas(found: Sequence[Source], steps: Counter[int]) -> dict[str, Any] | None:
    """Linear betas by a linspace or by names of arguments, cosine ones by a function's name."""
    number = {"steps": steps.most_common(1)[0][0]} if steps else {}
    ends = Counter(pair for source in found for pair in _ends(source.tree))
    if ends:
        (first, last), _ = ends.most_common(1)[0]
        quadratic = {"betas": "quadratic"} if _tables(found) == {"quadratic"} else {}
        return {**quadratic, "beta_start": first, "beta_end": last, **number}
    return {"betas": "cosine", **number} if "cosine" in _tables(found) else None


def _tables(found: Sequence[Source]) -> set[str]:
    """The kinds of tables of betas that some files make, by linspace, by a function's name or by a sigmoid."""
    kinds = set()
    for node in (node for source in found for node in ast.walk(source.tree)):
        if isinstance(node, ast.Call) and _called(node) == "linspace" and len(node.args) >= 2 and _spans_betas(node):
            kinds.add("quadratic" if _rooted(node) else "linear")
        if isinstance(node, ast.FunctionDef) and re.search("beta|schedule", node.name, re.IGNORECASE):
            kinds |= {kind for kind in ("cosine", "sigmoid") if kind in node.name.lower()}
        if isinstance(node, ast.Assign | ast.Return) and node.value is not None:
            calls = [part for part in ast.walk(node.value) if isinstance(part, ast.Call) and _called(part) == "sigmoid"]
            kinds |= {"sigmoid"} if calls and re.search("beta_|betas", ast.unparse(node)) else set()
    return kinds


def _spans_betas(call: ast.Call) -> bool:
    """Whether a linspace goes from a first beta to a last one, or between their roots."""
    words = [{_word(part) for part in ast.walk(argument)} for argument in call.args[:2]]
    values = [literal(argument, {}) for argument in call.args[:2]]
    named = all(any(end.fullmatch(word) for word in each) for end, each in zip((FIRST, LAST), words, strict=True))
    return named or (all(values) and is_betas(*(value[0] for value in values if value)))


def _rooted(call: ast.Call) -> bool:
    """Whether a linspace goes between square roots, and is squared then."""
    text = " ".join(ast.unparse(argument) for argument in call.args[:2])
    return re.search(r"\*\* *(0?\.5|\(1 / 2\))|sqrt", text) is not None


def _word(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _ends(tree: ast.Module) -> Iterator[tuple[float, float]]:
    known = constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "linspace" and len(node.args) >= 2:
            power = 2 if _rooted(node) else 1
            values = [literal(argument, known) for argument in node.args[:2]]
            if all(values) and is_betas(*(value[0] for value in values if value)):
                yield tuple(round(float(value[0]) ** power, 12) for value in values if value)  # type: ignore[misc]
        named = dict(_named(node))
        first = [value for name, value in named.items() if FIRST.fullmatch(name)]
        last = [value for name, value in named.items() if LAST.fullmatch(name)]
        if first and last and is_betas(first[0], last[0]):
            yield float(first[0]), float(last[0])
        pair = next((value for name, value in named.items() if name == "betas"), None)
        if isinstance(pair, tuple | list) and len(pair) == 2 and is_betas(*pair):
            yield float(pair[0]), float(pair[1])


def is_betas(first: Any, last: Any) -> bool:
    """Whether two values may be betas of a table.

    Args:
        first: of the first step.
        last: of the last step.
    """
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (first, last))
    return numbers and 0 < first < last < 0.5 and first <= 0.01


def _named(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Names with plain values: defaults of a function's arguments, keywords of a call."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args.args
        pairs = [*zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True)]
        pairs += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None]
        given = [(argument.arg, default) for argument, default in pairs]
    elif isinstance(node, ast.Call):
        given = [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
    else:
        return
    for name, value in given:
        found = literal(value, {})
        if found is not None:
            yield name, found[0]


def _steps(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Numbers under the names that steps of a diffusion have, and how much each counts."""
    for node in ast.walk(tree):
        for name, value in _named(node):
            if (
                STEPS.fullmatch(name)
                and isinstance(value, int)
                and 10 <= value <= 10_000
                and not isinstance(value, bool)
            ):
                yield value, USUAL if isinstance(node, ast.FunctionDef) else GIVEN
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
            found = literal(node.value, {})
            if STEPS.fullmatch(name) and found is not None and type(found[0]) is int and 10 <= found[0] <= 10_000:
                yield found[0], GIVEN
        if isinstance(node, ast.Call) and _called(node) == "linspace" and len(node.args) == 3:
            found = literal(node.args[2], {})
            betas = [literal(argument, {}) for argument in node.args[:2]]
            if (
                found is not None
                and type(found[0]) is int
                and found[0] >= 10
                and is_betas(*(b[0] if b else None for b in betas))
            ):
                yield found[0], GIVEN


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _noises(tree: ast.AST) -> set[str]:
    """Variables that are drawn from a normal distribution."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            calls = [part for part in ast.walk(node.value) if isinstance(part, ast.Call)]
            if any(_called(call) in ("randn", "randn_like", "normal_") for call in calls):
                found.add(node.targets[0].id)
    return found


def _ways(source: Source) -> Iterator[bool]:
    """Of each t · a + (1 - t) · b of data and noise: whether t = 1 is the data."""
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.Module):
            continue
        noises = _noises(function)
        for node in ast.walk(function):
            pair = _mixed(node)
            if pair is None:
                continue
            growing, falling = pair
            if (growing in noises) != (falling in noises):
                yield falling in noises


def _mixed(node: ast.AST) -> tuple[str, str] | None:
    """The names in t · a + (1 - t) · b: a, b."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
        return None
    growing = falling = None
    for side in (node.left, node.right):
        if not (isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult)):
            return None
        for factor, other in ((side.left, side.right), (side.right, side.left)):
            if not isinstance(other, ast.Name):
                continue
            if _is_rest(factor):
                falling = other.id
            elif growing is None and not _is_rest(factor):
                growing = other.id
    return (growing, falling) if growing and falling and growing != falling else None


def _is_rest(node: ast.AST) -> bool:
    """Whether it is 1 - t, maybe with a coefficient or a shape."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub)]
    if any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow) for part in ast.walk(node)):
        return False
    if any(isinstance(part, ast.Call) and _called(part) == "sqrt" for part in ast.walk(node)):
        return False  # of a diffusion, in squares
    return any(isinstance(part.left, ast.Constant) and part.left.value == 1 for part in parts)


def _compares_with_noise(tree: ast.Module) -> bool:
    """Whether a loss of two arguments has drawn noise as one of them."""
    noises = _noises(tree) | {"noise", "eps", "epsilon"}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and len(node.args) >= 2
            and re.search(r"loss|criterion|mse", ast.unparse(node.func), re.I)
        ):
            if any(isinstance(argument, ast.Name) and argument.id in noises for argument in node.args[:2]):
                return True
    return False


def _learns_score(tree: ast.Module) -> bool:
    """Whether drawn noise is added to an answer times its spread, (score * std + z) ** 2, which is least for a score."""
    noises = _noises(tree) | {"noise", "eps", "epsilon", "z"}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
            continue
        for noise, other in ((node.left, node.right), (node.right, node.left)):
            named = isinstance(noise, ast.Name) and noise.id in noises
            if named and isinstance(other, ast.BinOp) and isinstance(other.op, ast.Mult):
                words = " ".join(getattr(part, "id", "") for part in ast.walk(other))
                if "score" in words and re.search(r"std|sigma", words):
                    return True
    return False


def _ranges(tree: ast.Module) -> Iterator[tuple[float, float]]:
    """What pixels from 0 to 1 become by a Normalize of one mean and spread, by 2 x - 1, (x - 1/2) 2 or (x - 1/2) / (1/2), and
    those up to 255 by x / 127.5 - 1."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "Normalize":
            values = [literal(value, {}) for value in [*node.args[:2], *(k.value for k in node.keywords)]][:2]
            numbers = [_one(value[0]) for value in values if value is not None]
            if len(numbers) == 2 and numbers[0] is not None and numbers[1]:
                yield -numbers[0] / numbers[1], (1 - numbers[0]) / numbers[1]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is(node.right, 1) and _doubled(node.left):
            yield -1.0, 1.0
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is(node.right, 2) and _centred(node.left):
            yield -1.0, 1.0
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and _is(node.right, 0.5)
            and _centred(node.left)
        ):
            yield -1.0, 1.0


def _raw(tree: ast.Module) -> bool:
    """Whether pixels are made numbers from 0 to 1."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "ToTensor":
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is(node.right, 255):
            return True
    return False


def _centred(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is(node.right, 0.5)


def _one(value: Any) -> float | None:
    """The number that stands for all channels."""
    row = list(value) if isinstance(value, list | tuple) else [value]
    same = row and all(isinstance(n, int | float) and n == row[0] for n in row)
    return float(row[0]) if same else None


def _doubled(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _is(node.right, 127.5)
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and (_is(node.left, 2) or _is(node.right, 2))


def _is(node: ast.expr, number: float) -> bool:
    return isinstance(node, ast.Constant) and node.value == number


def _shapes(source: Source) -> Iterator[tuple[int, int]]:
    """Channels and side of data sets of torchvision's, resized where the file resizes."""
    sides = [
        found[0]
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and _called(node) == "Resize" and node.args
        for found in [literal(node.args[0], constants(source.tree))]
        if found is not None
    ]
    sides = [side[0] if isinstance(side, list | tuple) else side for side in sides]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _called(node) in SIZES:
            channels, side = SIZES[_called(node)]
            yield channels, sides[0] if sides and isinstance(sides[0], int) else side
        if isinstance(node, ast.Call) and _called(node) in ("randn", "sample", "zeros", "rand"):
            yield from _drawn(node)


def _drawn(node: ast.Call) -> Iterator[tuple[int, int]]:
    """Channels and side of a batch that is drawn: randn(n, 1, 28, 28), sample(n, (1, 28, 28))."""
    rows = [node.args, *(argument.elts for argument in node.args if isinstance(argument, ast.Tuple | ast.List))]
    for row in rows:
        found = [literal(part, {}) for part in row[-3:]]
        numbers = [part[0] for part in found if part is not None and type(part[0]) is int]
        if len(numbers) == 3 and numbers[1] == numbers[2] and 8 <= numbers[2] <= 1024 and numbers[0] <= 16:
            yield numbers[0], numbers[2]
