"""Mutations: which changes of one operator or number no fast test notices.

    pip install cosmic-ray
    python benchmarks/mutations.py --seconds 540                                      # all modules, a share of the time each
    python benchmarks/mutations.py noiseshift/approximation/roots.py --seconds 300   # one module

cosmic-ray's operators are applied to a module's source in memory. A process a module is forked from this one, which has torch
imported; it imports the package and the tests, and notes which lines each test runs. From it a process a mutant is forked, in
which the mutated function's code is exchanged and the tests that run the mutated line are run, the fast ones. Defaults, constants
and decorators are changed before the package is imported, which is slower. Prints each survivor: file, line, before, after; then
a line a module. What survives is killed by a test or shown equivalent in docs/reports/mutations.md.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import inspect
import os
import random
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

for heavy in (
    "torch",
    "scipy.stats",
    "scipy.interpolate",
    "pandas",
    "torchmetrics",
    "hypothesis",
    "diffusers.schedulers",
):
    importlib.import_module(heavy)  # once, here: every fork has it

ROOT = Path(__file__).parent.parent
WORDS = (  # without the tests that start a process or run the bundled models
    "tests/diffusion/test_identity.py --deselect=tests/diffusion/test_identity.py::test_a_hash_is_the_same_in_another_process "
    "--deselect=tests/diffusion/test_identity.py::test_asking_a_model_does_not_change_it"
)
MODULES = {
    "noiseshift/approximation/roots.py": "tests/approximation/test_roots.py",
    "noiseshift/diffusion/schedules.py": "tests/diffusion/test_schedules.py",
    "noiseshift/diffusion/predictions.py": "tests/diffusion/test_models.py tests/diffusion/test_answers.py",
    "noiseshift/diffusion/scales.py": f"tests/diffusion/test_guidance.py {WORDS}",
    "noiseshift/diffusion/wrapping.py": "tests/diffusion/test_models.py tests/diffusion/test_answers.py",
    "noiseshift/diffusion/models.py": "tests/diffusion/test_models.py tests/diffusion/test_answers.py",
    "noiseshift/diffusion/guidance.py": f"tests/diffusion/test_guidance.py {WORDS}",
    "noiseshift/diffusion/noise.py": "tests/diffusion/test_noise.py",
    "noiseshift/diffusion/samplers.py": "tests/diffusion/test_samplers.py tests/diffusion/test_reinforcement.py",
    "noiseshift/shift/reading.py": "tests/shift/test_reading.py tests/shift/test_shift.py",
    "noiseshift/shift/report.py": "tests/shift/test_shift.py tests/shift/test_inference.py",
    "noiseshift/shift/inference.py": "tests/shift/test_inference.py tests/shift/test_summary.py",
    "noiseshift/shift/summary.py": "tests/shift/test_summary.py tests/shift/test_inference.py",
    "noiseshift/shift/controls.py": "tests/shift/test_controls.py",
    "noiseshift/shift/parts.py": "tests/shift/test_parts.py",
    "noiseshift/shift/groups.py": "tests/shift/test_groups.py",
    "noiseshift/shift/refinement.py": "tests/shift/test_refinement.py",
    "noiseshift/shift/preflight.py": "tests/shift/test_preflight.py",
    "noiseshift/shift/storage.py": "tests/shift/test_storage.py",
    "noiseshift/diffusion/steps.py": "tests/diffusion/test_scheduler_steps.py tests/diffusion/test_noise.py",
    "noiseshift/diffusion/schedulers.py": "tests/diffusion/test_schedulers.py",
    "noiseshift/diffusion/scheduler_solvers.py": "tests/diffusion/test_schedulers.py tests/diffusion/test_solvers.py",
    "noiseshift/diffusion/families.py": "tests/diffusion/test_families.py tests/diffusion/test_scheduler_tables.py",
    "noiseshift/diffusion/rehearsal.py": "tests/diffusion/test_schedulers.py",
    "noiseshift/diffusion/solvers.py": "tests/diffusion/test_solvers.py tests/diffusion/test_samplers.py",
    "noiseshift/diffusion/refining.py": "tests/diffusion/test_refining.py tests/shift/test_refinement.py",
    "noiseshift/checkpoints/diffusers/caching.py": "tests/studies/test_variants.py",
    "noiseshift/diffusion/scheduler_steps.py": "tests/diffusion/test_scheduler_steps.py",
    "noiseshift/diffusion/scheduler_tables.py": "tests/diffusion/test_scheduler_tables.py",
    "noiseshift/shift/denoising.py": "tests/shift/test_denoising.py",
    "noiseshift/shift/contrast.py": "tests/shift/test_contrast.py",
    "noiseshift/shift/retiming.py": "tests/shift/test_retiming.py",
    "noiseshift/shift/rereading.py": "tests/shift/test_rereading.py",
    "noiseshift/shift/recalling.py": "tests/shift/test_recalling.py",
    "noiseshift/shift/detail.py": "tests/shift/test_detail.py",
    "noiseshift/shift/likeness.py": "tests/shift/test_likeness.py",
    "noiseshift/shift/numbering.py": "tests/shift/test_numbering.py",
    "noiseshift/integrations/pairing.py": "tests/integrations/test_pairing.py",
    "noiseshift/checkpoints/source/conditioning.py": "tests/checkpoints/test_source.py",
    "noiseshift/checkpoints/source/settings.py": "tests/checkpoints/test_source.py",
    "noiseshift/checkpoints/source/stochastic.py": "tests/checkpoints/test_source.py",
    "noiseshift/estimators/slopes.py": "tests/estimators/test_fokker_planck.py tests/estimators/test_estimators.py",
    "noiseshift/estimators/instrument.py": "tests/estimators/test_estimators.py tests/shift/test_reading.py",
}
KINDS = r"BinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|FloorDiv_Mul|Mod_Mul|BitAnd_BitOr)|UnaryOperator|AddNot|Number"
KINDS += r"|ComparisonOperator_(Lt_(LtE|GtE)|LtE_(Lt|Gt)|Gt_(GtE|LtE)|GtE_(Gt|Lt)|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
KINDS += r"|TrueWith|FalseWith|AndWithOr|OrWithAnd|ReplaceBreak|ReplaceContinue|ZeroIteration"
Mutant = tuple[int, str, int]  # line, operator, occurrence


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from a changed source."""

    def __init__(self, module: str, source: str):
        self.name, self.path, self.source = dotted(module), str(ROOT / module), source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self, origin=self.path) if name == self.name else None

    def get_filename(self, name):
        return self.path

    def get_data(self, path):
        return self.source.encode()


class Watch:
    """A pytest plugin: the processor seconds of each test that passes, and the lines of one file that it runs.

    A test is cut off when it has taken `slowest` seconds: it would not be run on a mutant.
    """

    def __init__(self, file: str, slowest: float):
        self.file, self.slowest = file, slowest
        self.lines, self.found = set(), {}
        signal.signal(signal.SIGVTALRM, self.cut)

    def cut(self, number, frame):
        raise TimeoutError(f"more than {self.slowest:g} s")

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename != self.file:
            return None
        self.lines.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item):
        started, self.lines = time.process_time(), set()
        signal.setitimer(signal.ITIMER_VIRTUAL, self.slowest)
        sys.settrace(self.trace)
        outcome = yield
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if outcome.excinfo is None:
            self.found[item.nodeid] = (time.process_time() - started, self.lines)


def dotted(module: str) -> str:
    return module.removesuffix(".py").replace("/", ".")


def run_tests(tests: Sequence[str], *plugins: Any) -> bool:
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--assert=plain"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *([] if plugins else ["-x"])]
    return pytest.main([*options, *tests], plugins=list(plugins)) == 0


def forked(work: Callable[[], bool], seconds: int) -> bool:
    """Whether that is so, in a process of its own, within so many seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        silent = os.open(os.environ.get("MUTATIONS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        signal.alarm(seconds)
        os._exit(0 if work() else 1)
    return os.waitpid(child, 0)[1] == 0


def mutants(source: str) -> list[Mutant]:
    """Every mutant, in an order drawn from one seed."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree, found = get_ast(source), []
    for name in (name for name in operator_names() if re.search(KINDS, name)):
        operator = get_operator(name)()
        lines = [start[0] for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        found += [(line, name, place) for place, line in enumerate(lines)]
    random.Random(0).shuffle(found)
    return found


def changed_by(source: str, mutant: Mutant) -> str:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(source, get_operator(mutant[1])(), mutant[2]) or source


def codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """The functions of a module and the methods of its classes, by qualified name; what is inside a function stays inside."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    found = {part.co_qualname: part for part in inner}
    for part in inner:
        if not part.co_flags & inspect.CO_NEWLOCALS or "__qualname__" in part.co_names:  # a class's body
            found |= codes(part)
    return found


def live(module: types.ModuleType, name: str) -> types.FunctionType | None:
    """The function of that qualified name, under its decorators."""
    thing: Any = module
    for part in name.split("."):
        thing = vars(thing).get(part) if hasattr(thing, "__dict__") else None
    for inside in ("fget", "func", "__func__"):
        thing = getattr(thing, inside, None) or thing
    thing = inspect.unwrap(thing) if callable(thing) else None
    return thing if isinstance(thing, types.FunctionType) and thing.__qualname__ == name else None


def exchanged(module: str, before: str, after: str) -> bool:
    """Exchange the one function's code that a mutation changes. False where it changes no function's code."""
    file = str(ROOT / module)
    old, new = (codes(compile(source, file, "exec", dont_inherit=True)) for source in (before, after))
    for name in old:
        function = live(sys.modules[dotted(module)], name)
        if name in new and old[name] != new[name] and function is not None:
            function.__code__ = new[name]
            return True
    return False


def shown(before: str, after: str) -> str:
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((f"{a.strip()}  ->  {b.strip()}" for a, b in pairs if a != b), "")


def examine(module: str, tests: Sequence[str], slowest: float, end: float) -> bool:
    """Run the mutants of one module until `end`, and print those that survive. In a process of its own."""
    started, source, watch = time.time(), (ROOT / module).read_text(), Watch(str(ROOT / module), slowest)
    with open(os.devnull, "w") as silent:
        kept = os.dup(1), os.dup(2)
        os.dup2(silent.fileno(), 1)
        os.dup2(silent.fileno(), 2)
        run_tests(tests, watch)
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
    if not watch.found:  # without one every mutant would count as killed
        print(f"{module}: no test of {' '.join(tests)} passes", flush=True)
        return False
    every, score = mutants(source), {"killed": 0, "survived": 0, "slow": 0}
    print(
        f"{module}: {len(every)} mutants, {len(watch.found)} tests, traced in {time.time() - started:.0f} s", flush=True
    )
    for mutant in every:
        changed = changed_by(source, mutant)
        if changed == source or source.splitlines()[mutant[0] - 1].lstrip().startswith("@dataclass"):
            continue
        if time.time() > end:
            break
        outcome = one(module, source, changed, mutant[0], watch.found)
        score[outcome] += 1
        if outcome != "killed":
            print(f"{outcome} {module}:{mutant[0]}: {shown(source, changed)}", flush=True)
    print(f"{module}: {', '.join(f'{count} {what}' for what, count in score.items())}", flush=True)
    return True


def one(module: str, source: str, changed: str, line: int, tests: Mapping[str, tuple[float, set[int]]]) -> str:
    """Killed, survived, or slow: what is changed is no function's code, and was not tried."""
    passing = sorted((test for test, (_, lines) in tests.items() if line in lines), key=lambda test: tests[test][0])
    chosen = passing or sorted(tests, key=lambda test: tests[test][0])
    limit = 60 + round(20 * sum(tests[test][0] for test in chosen))  # of the clock, on a machine that may be shared

    def tried() -> bool:
        return not exchanged(module, source, changed) or run_tests(chosen)

    if not forked(lambda: exchanged(module, source, changed), 60):
        return "slow"
    return "survived" if forked(tried, limit) else "killed"


def at_import(module: str, tests: Sequence[str], lines: str) -> None:
    """Try the mutants of these lines (12,40) by importing the package anew, one by one."""
    source = (ROOT / module).read_text()
    for mutant in [mutant for mutant in mutants(source) if str(mutant[0]) in lines.split(",")]:
        changed = changed_by(source, mutant)

        def passes(changed: str = changed) -> bool:
            sys.meta_path.insert(0, Mutated(module, changed))
            return run_tests(tests)

        outcome = "survived" if forked(passes, 300) else "killed"
        print(f"{outcome} {module}:{mutant[0]}: {shown(source, changed)}", flush=True)


@click.command()
@click.argument("modules", nargs=-1)
@click.option("--seconds", default=540.0, show_default=True, help="Stop then; the modules share it.")
@click.option("--slowest", default=2.0, show_default=True, help="Leave out tests that take more processor seconds.")
@click.option("--lines", default="", help="Of one module: only these lines' mutants, such as 12,40, by a fresh import.")
def main(modules, seconds, slowest, lines):
    end, chosen = time.time() + seconds, list(modules or MODULES)
    for k, module in enumerate(chosen):
        tests = MODULES[module].split()
        if lines:
            at_import(module, tests, lines)
            continue
        share = time.time() + (end - time.time()) / (len(chosen) - k)
        child = os.fork()
        if child == 0:
            os._exit(0 if examine(module, tests, slowest, share) else 1)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
