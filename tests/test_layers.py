"""Imports point one way, and importing the library costs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"reading", "calling", "data", "distributed", "diffusion", "writing"},
    {"networks"},
    {"estimators", "checkpoints", "evaluation"},
    {"targets", "shift", "training"},
    {"correction", "approximation", "audit", "integrations"},
    {"studies"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path):
    """Modules that a file imports when it is imported itself: not inside functions, not for type checkers only."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module == "noiseshift"
            found += [f"noiseshift.{alias.name}" for alias in node.names] if inside else [node.module]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


LIBRARY = sorted(p for p in (ROOT / "noiseshift").rglob("*.py") if p.name not in ("__init__.py", "__main__.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_from_its_layer_or_below(path):
    own = path.relative_to(ROOT / "noiseshift").parts[0].removesuffix(".py")
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "noiseshift":
            assert parts[1] not in ("cli", "analysis"), f"{path} imports {module}"
            assert RANK[parts[1]] <= RANK[own], f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "analysis").glob("*.py")), ids=lambda p: p.name)
def test_drawing_knows_nothing_of_the_command_line(path):
    assert not [module for module in imports(path) if module.startswith("noiseshift.cli")]


def _every_import(source):
    """Modules and names that a source imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "tests").rglob("*.py") if p.parent.name != "cli"),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_what_is_tested_outside_the_command_line_is_in_the_library(path):
    """The program itself, `main`, is what a shell runs: a test may run it. What lies under it has its tests in tests/cli."""
    found = {name for name in _every_import(path.read_text()) if name.startswith("noiseshift.cli")}
    assert found <= {"noiseshift.cli.main"}


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_page_and_no_notebook_imports_the_command_line(path):
    assert not re.findall(r"(?:import|from) +noiseshift\.cli|from +noiseshift +import .*\bcli\b", path.read_text())


def test_every_module_has_a_layer():
    assert {p.relative_to(ROOT / "noiseshift").parts[0].removesuffix(".py") for p in LIBRARY} <= set(RANK)


def test_the_architectures_tree_and_arrows_are_these():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    tree, arrows = page.split("```")[1], page.split("```")[3]
    there = {p.name for p in (ROOT / "noiseshift").iterdir() if p.name not in ("py.typed", "__pycache__")}
    assert {f"{name}/" if "." not in name else name for name in there if not name.startswith("__")} <= set(
        re.findall(r"[\w.]+/?", tree)
    )
    groups = [re.findall(r"\w+", part) for part in arrows.split("<-")]
    assert list(map(set, groups)) == [*LAYERS, {"analysis"}, {"cli"}]


def test_importing_the_library_imports_nothing_heavy():
    code = "import sys, noiseshift; print(sorted({'torch', 'pandas', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_every_public_name_is_there():
    import noiseshift as ns

    for name in ns.__all__:
        assert getattr(ns, name) is not None


def test_every_command_is_one_function_of_the_library():
    import noiseshift as ns
    from noiseshift.evaluation import evaluate
    from noiseshift.studies import approximate, compare, correct, measure

    assert (ns.run, ns.approximate, ns.correct) == (measure.run, approximate.run, correct.run)
    assert (ns.compare, ns.evaluate) == (compare.compare, evaluate)


def test_every_package_is_in_the_wheel():
    """A package that pyproject.toml does not list is there in a clone and missing in an installation."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "noiseshift").rglob("__init__.py")}
    assert listed == folders | {"noiseshift.cli", "noiseshift.analysis"}


def functions():
    """(whole lines, lines of the body without its docstring, name) of every function; its decorators do not count."""
    for folder in ("noiseshift", "cli", "analysis"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                    yield node.end_lineno - node.lineno + 1, size, f"{path.relative_to(ROOT)}:{node.name}"


def test_functions_are_short():
    """Half of them within 6 lines, nine in ten within 20; none over 60 with its signature and its docstring."""
    whole, bodies, names = zip(*functions(), strict=True)
    assert sorted(bodies)[len(bodies) // 2] <= 6
    assert sorted(bodies)[9 * len(bodies) // 10] <= 20
    assert not [name for name, lines in zip(names, whole, strict=True) if lines > 60]


def test_every_test_file_has_a_name_of_its_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)


def test_seconds_are_not_of_a_clock_that_can_be_set():
    """time.time() goes back when a machine's clock is set right: a run took −3,600 seconds."""
    calls = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("noiseshift", "cli", "analysis")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\btime\.time(_ns)?\(|\bfrom time import .*\btime\b", line)
    ]
    assert not calls


def test_data_and_noise_are_mixed_in_one_place():
    mixed = re.compile(r"\.alpha \* [\w.]+ \+ (\w+\.)?sigma \* [\w.]*eps")
    found = [path.name for path in LIBRARY if mixed.search(path.read_text())]
    assert found == ["schedules.py"]
