"""Which class of the Python beside a checkpoint its tensors are of, what it was made with, and how it is called."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noiseshift.checkpoints.source.files import Source
from noiseshift.checkpoints.source.preconditioning import preconditioning
from noiseshift.checkpoints.source.values import constants, literal
from noiseshift.diffusion.conventions import ARGUMENTS

WRAPPERS = (
    "to",
    "cuda",
    "cpu",
    "eval",
    "train",
    "float",
    "double",
    "DataParallel",
    "DistributedDataParallel",
    "compile",
)
"""Calls around a network that leave it one."""


JOINS = ("cat", "concat", "hstack")
"""Functions that join tensors."""


@dataclass(frozen=True)
class Network:
    """A class that a checkpoint's tensors fit by name.

    Attributes:
        name: of the class.
        source: the file that defines it.
        arguments: what it is made with, as code, as far as that is known.
        complete: whether that is all.
        parameters: what its constructor takes, for people.
        root: the folder that its module is imported from, below the one that was searched.
        importable: whether importing its file runs nothing else and needs nothing that is not installed.
        signature: its arguments in our words, empty where they are the usual (x, t, label) or not known.
        labelled: whether it takes a label.
        no_label: whether the label may be left out or None.
        several: whether it returns a tuple.
        others: names of further arguments that it cannot do without.
        timed: whether it takes a time.
        denoises: whether it scales its input and answer itself, as EDM does.
        column: whether it joins its time to its state as it is, which takes shape (B, 1).
    """

    name: str
    source: Source
    arguments: str
    complete: bool
    parameters: str
    importable: bool
    root: str = ""
    signature: tuple[str, ...] = ()
    labelled: bool = False
    no_label: bool = False
    several: bool = False
    others: tuple[str, ...] = field(default=())
    timed: bool = True
    denoises: bool = False
    column: bool = False


@dataclass(frozen=True)
class Near:
    """A class that has most of a checkpoint's parts, but not all.

    Attributes:
        name: of the class.
        path: of the file that defines it.
        lacking: parts of the checkpoint that it does not have.
    """

    name: str
    path: Path
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class _Class:
    node: ast.ClassDef
    source: Source


def network_of(found: Sequence[Source], names: Collection[str], prefix: str, file: Path) -> Network | None:
    """The class that a state dict is of.

    Args:
        found: the files to look in.
        names: of the state dict's tensors.
        prefix: what stands before those of all weights; a part of it may be the network's own.
        file: the checkpoint, whose name files may mention.

    Returns:
        The class, None where none fits.
    """
    each = _classes(found)
    classes = {one.node.name: one for one in reversed(each)}
    for wanted in _parts(names, prefix):
        fitting = [one for one in each if _takes(one, classes) and wanted <= _attributes(one, classes)]
        if fitting:
            made = list(_made(found, {one.node.name for one in fitting}, file))
            return _described(max(fitting, key=lambda one: _score(one, classes, wanted, made, file)), made, found)
    return None


def nearest(found: Sequence[Source], names: Collection[str], prefix: str) -> Near | None:
    """The class that has most of a state dict's parts, where none has all: it may be of another version of the code.

    Args:
        found: the files to look in.
        names: of the state dict's tensors.
        prefix: what stands before those of all weights.

    Returns:
        The class, None where none has more than half.
    """
    each = _classes(found)
    classes = {one.node.name: one for one in reversed(each)}
    best: tuple[float, Near] | None = None
    for wanted in _parts(names, prefix):
        for one in each:
            lacking = wanted - _attributes(one, classes)
            share = 1 - len(lacking) / len(wanted)
            if len(wanted) > 2 and share > 0.5 and _takes(one, classes) and (best is None or share > best[0]):
                best = share, Near(one.node.name, one.source.path, tuple(sorted(lacking)))
    return best and best[1]


def _classes(found: Sequence[Source]) -> list[_Class]:
    return [
        _Class(node, source) for source in found for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)
    ]


def _parts(names: Collection[str], prefix: str) -> Iterator[set[str]]:
    """The first parts of the tensors' names below a prefix, then below less and less of it."""
    parts = prefix.rstrip(".").split(".") if prefix else []
    for place in range(len(parts), -1, -1):
        start = "".join(f"{part}." for part in parts[:place])
        wanted = {name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)}
        if wanted:
            yield wanted


def _takes(each: _Class, classes: Mapping[str, _Class]) -> int:
    """How much it is called with: 2 for a state and something more, 1 for a state, 0 where it is not called."""
    for one in _bases(each, classes):
        forward = _method(one.node, "forward")
        if forward is not None:
            more = len(forward.args.args) + len(forward.args.kwonlyargs) > 2 or forward.args.vararg is not None
            return 2 if more else len(forward.args.args) - 1
    return 0


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == name), None)


@dataclass(frozen=True)
class _Call:
    """A place where a class is made: `near` 2 where the network made is then filled from the file, 1 where the file is named."""

    name: str
    call: ast.Call
    source: Source
    near: int


def _score(
    each: _Class, classes: Mapping[str, _Class], wanted: Collection[str], made: Sequence[_Call], file: Path
) -> tuple[bool, bool, int, int, int, int]:
    """Larger for a class that is filled from this very file, for one that takes a time, for one of fewer parts that the
    file lacks, and where file and source share words."""
    near = max((call.near for call in made if call.name == each.node.name), default=0)
    spare = len(_layers(each, classes) - set(wanted))
    words = set(re.split(r"[\W_]+", file.stem.lower())) & set(re.split(r"[\W_]+", str(each.source.path).lower()))
    return near == 2, _takes(each, classes) == 2, near, -spare, len(words), -len(each.source.path.parts)


def _bases(each: _Class, classes: Mapping[str, _Class]) -> Iterator[_Class]:
    seen = {each.node.name}
    waiting = [each]
    while waiting:
        one = waiting.pop()
        yield one
        for base in one.node.bases:
            name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
            if name in classes and name not in seen:
                seen.add(name)
                waiting.append(classes[name])


def _attributes(each: _Class, classes: Mapping[str, _Class]) -> set[str]:
    return {name for one in _bases(each, classes) for name, _ in _assigned(one.node)}


def _layers(each: _Class, classes: Mapping[str, _Class]) -> set[str]:
    """Attributes that are made by a call of something that is named as classes are: layers, most of them with weights."""
    return {
        name
        for one in _bases(each, classes)
        for name, value in _assigned(one.node)
        if isinstance(value, ast.Call) and _name(value.func)[:1].isupper() and not _weightless(value)
    }


def _weightless(call: ast.Call) -> bool:
    """Activations and the like, which a state dict does not show."""
    name = _name(call.func)
    return name.endswith(("LU", "Sigmoid", "Tanh", "Loss")) or name.startswith(
        ("Dropout", "Upsample", "Identity", "MaxPool", "AvgPool")
    )


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Attributes of `self`, and what they are set to."""
    for part in ast.walk(node):
        targets: list[ast.expr] = []
        if isinstance(part, ast.Assign):
            targets = [
                t for target in part.targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
        elif isinstance(part, ast.AnnAssign):
            targets = [part.target]
        elif isinstance(part, ast.Call) and _name(part.func) in ("register_buffer", "register_parameter", "add_module"):
            if part.args and isinstance(part.args[0], ast.Constant):
                yield str(part.args[0].value), None
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr, getattr(part, "value", None)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _made(found: Sequence[Source], names: Collection[str], file: Path) -> Iterator[_Call]:
    """All places where one of the classes is made."""
    for source in found:
        named = file.name in source.text or file.stem in source.text
        filled = set(_filled(source.tree, file)) if named else set()
        variables = {}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                call = _unwrapped(node.value)
                if call is not None and _name(call.func) in names:
                    variables[call] = _name(node.targets[0])
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and _name(node.func) in names:
                near = 2 if variables.get(node, "") in filled and variables.get(node) else int(named)
                yield _Call(_name(node.func), node, source, near)


def _unwrapped(node: ast.expr) -> ast.Call | None:
    """The call that makes a network, without `.to(device)` and the like around it."""
    while isinstance(node, ast.Call):
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in WRAPPERS
            and isinstance(node.func.value, ast.Call)
        ):
            node = node.func.value
        elif _name(node.func) in WRAPPERS and node.args:
            node = node.args[0]
        else:
            return node
    return None


def _filled(tree: ast.AST, file: Path) -> Iterator[str]:
    """Variables that are filled from the file, or saved to it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = [p.value for p in ast.walk(node) if isinstance(p, ast.Constant) and isinstance(p.value, str)]
        if not any(Path(word).name == file.name for word in words if "\n" not in word):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "load_state_dict":
            yield _name(node.func.value)
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "state_dict":
                yield _name(part.func.value)


def _described(best: _Class, made: Sequence[_Call], found: Sequence[Source]) -> Network:
    own = [call for call in made if call.name == best.node.name]
    init = _method(best.node, "__init__")
    arguments, complete = _arguments(own, init)
    called = _calling(_method(best.node, "forward") or _method(best.node, "__call__"))
    parameters = ast.unparse(init.args).removeprefix("self").lstrip(", ") if init else ""
    return Network(
        best.node.name,
        best.source,
        arguments,
        complete,
        parameters[:160],
        best.node in best.source.tree.body and _importable(best.source, found),
        _root(best.source, found),
        denoises=next(preconditioning(best.node), None) is not None,
        **called,
    )


def _root(source: Source, found: Sequence[Source]) -> str:
    """The folder that the others import its package from, such as src."""
    first, *rest = source.path.parts
    imported = {
        name
        for each in found
        for node in ast.walk(each.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _imported(node)
    }
    inner = rest[0].removesuffix(".py") if rest else ""
    return first if inner and inner in imported and first not in imported else ""


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """First names of the modules that a statement imports from elsewhere."""
    if isinstance(node, ast.ImportFrom):
        return [] if node.level or not node.module else [node.module.partition(".")[0]]
    return [alias.name.partition(".")[0] for alias in node.names]


def _arguments(calls: Sequence[_Call], made: ast.FunctionDef | None) -> tuple[str, bool]:
    """What it is made with most often, nearest the file first, and whether that is all."""
    written = [(each.near, *_written(each)) for each in calls]
    ranked = Counter((complete, near, text) for near, text, complete in written)
    required = 0 if made is None else len(made.args.args) - 1 - len(made.args.defaults)
    if ranked:
        (complete, _, text), _ = max(ranked.items(), key=lambda item: (*item[0][:2], item[1]))
        if complete or text:
            return text, complete
    return "", required <= 0


def _written(each: _Call) -> tuple[str, bool]:
    """A call's arguments as code of plain values, and whether all are such; those that are not are left out."""
    known = constants(each.source.tree)
    values = [literal(argument, known) for argument in each.call.args]
    positional = list(itertools.takewhile(lambda value: value is not None, values))
    parts = [repr(value[0]) for value in positional if value is not None]
    named = [(keyword.arg, literal(keyword.value, known)) for keyword in each.call.keywords]
    parts += [f"{name}={value[0]!r}" for name, value in named if name and value is not None]
    complete = len(positional) == len(values) and all(name and value is not None for name, value in named)
    return ", ".join(parts), complete


def _calling(forward: ast.FunctionDef | None) -> dict[str, Any]:
    """How it is called, as far as the names of its arguments say."""
    if forward is None:
        return {}
    named = {word: name for name, words in ARGUMENTS.items() for word in words} | _MORE
    given = forward.args.args[1:]
    optional = (
        {argument.arg for argument in given[len(given) - len(forward.args.defaults) :]}
        if forward.args.defaults
        else set()
    )
    words = [named.get(argument.arg.lower(), "") for argument in given]
    if "x" not in words and words[:1] == [""]:
        words[0] = "x"  # whatever it is called, the state comes first
    known = [word for word in words if word]
    label = next((a.arg for a, word in zip(given, words, strict=True) if word == "label"), None)
    others = tuple(a.arg for a, word in zip(given, words, strict=True) if not word and a.arg not in optional)
    usual = ["x", "t", "label"] if label else ["x", "t"]
    returned = [node.value for node in _own(forward) if isinstance(node, ast.Return) and node.value is not None]
    timed = forward.args.vararg is not None or len([word for word in words if word != "label"]) > 1
    swapped = sorted(known) == sorted(usual) and known != usual and not others
    return {
        "signature": tuple(known) if swapped else (),
        "labelled": label is not None,
        "no_label": label in optional,
        "several": bool(returned) and all(isinstance(value, ast.Tuple) for value in returned),
        "others": others,
        "timed": timed,
        "column": _joins(forward, {a.arg for a, word in zip(given, words, strict=True) if word in ("x", "t")}),
    }


def _joins(forward: ast.FunctionDef, names: Collection[str]) -> bool:
    """Whether a function concatenates both of its arguments, neither of them changed before."""
    changed = {
        target.id
        for node in _own(forward)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if len(names) != 2 or changed & set(names):
        return False
    joined = (
        node.args[0] for node in _own(forward) if isinstance(node, ast.Call) and node.args and _name(node.func) in JOINS
    )
    return any(set(names) <= {getattr(part, "id", "") for part in getattr(parts, "elts", [])} for parts in joined)


_MORE = {
    **dict.fromkeys(
        ("inputs", "input", "sample", "noisy", "x_noisy", "z", "z_t", "xs", "images", "img", "x_in", "xt"), "x"
    ),
    **dict.fromkeys(
        (
            *("time_step", "ts", "tt", "step", "steps", "t_step", "diffusion_step", "time_steps", "sigmas"),
            *("idx", "t_idx", "index", "step_idx", "timestep_idx"),
            *("noise_level", "noise_levels", "noise_labels", "c_noise", "log_snr"),
        ),
        "t",
    ),
    **dict.fromkeys(("class_label", "class_labels", "cls", "context", "classes", "condition", "digit"), "label"),
}
"""Further words for the arguments of a network."""


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What is in a function, but not in those that it defines."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _importable(source: Source, found: Sequence[Source]) -> bool:
    """Whether importing a file only defines things, with packages that are installed."""
    if source.module is None or _taken(source):
        return False
    local = {part for each in found for part in (*each.path.parent.parts, each.path.stem)}
    for node in source.tree.body:
        if isinstance(node, ast.For | ast.While | ast.With):
            return False
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return False
        if isinstance(node, ast.Import | ast.ImportFrom) and not all(map(_installed, set(_imported(node)) - local)):
            return False
        if isinstance(node, ast.Assign) and any(
            isinstance(part, ast.Call) and _name(part.func) in ("parse_args", "load", "open") for part in ast.walk(node)
        ):
            return False
    return True


def _taken(source: Source) -> bool:
    """Whether the first part of a module's name is that of a library that comes first, such as `code` or `types`."""
    first = (source.module or "").partition(".")[0]
    return first in sys.stdlib_module_names or first == "noiseshift"


def _installed(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
