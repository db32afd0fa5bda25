"""Public definitions say what they take: `Args:` for two arguments or more, `Attributes:` for two fields or more."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "noiseshift"
PACKAGES = sorted(path.name for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def arguments(function):
    given = function.args
    names = [
        each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each
    ]
    return [name for name in names if name not in ("self", "cls")]


def fields(made):
    """The fields of a dataclass or a named tuple; none of another class."""
    kinds = [ast.unparse(each) for each in (*made.decorator_list, *made.bases)]
    if not any("dataclass" in kind or kind == "NamedTuple" for kind in kinds):
        return []
    return [
        node.target.id for node in made.body if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_")
    ]


def wanted(node, owner):
    """(names, docstrings) where a definition has two names or more to explain."""
    if isinstance(node, ast.ClassDef):
        init = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        names = fields(node) or [name for each in init for name in arguments(each)]
        texts = [ast.get_docstring(each) or "" for each in (node, *init)]
    else:
        names = arguments(node) if not any(ast.unparse(each) == "overload" for each in node.decorator_list) else []
        texts = [ast.get_docstring(node) or ""]
        if owner and not texts[0]:  # it overrides one that says it
            names = []
    return names, "\n".join(texts)


def public(tree, owner=""):
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node, owner
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def files(package):
    """The modules of a package; a module itself where its name ends in .py."""
    path = ROOT / package
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_public_definitions_say_what_they_take(package):
    silent = []
    for path in files(package):
        for node, owner in public(ast.parse(path.read_text())):
            names, text = wanted(node, owner)
            said = [section for section in ("Args:", "Attributes:") if section in text]
            missing = [name for name in names if f"{name}:" not in text] if said else names
            if len(names) > 1 and missing:
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {owner}{node.name}: {', '.join(missing)}")
    assert not silent, "\n".join(silent)
