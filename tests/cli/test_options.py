"""A few random combinations of options, as `benchmarks/robustness/options.py` runs thousands."""

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from noiseshift.cli import COMMANDS, main
from noiseshift.cli.options import LOADED_WITH, PIPELINE

import noiseshift as ns

PATH = Path(__file__).parents[2] / "benchmarks" / "robustness" / "options.py"
LIGHT = ["sample", "report", "evaluate", "train-estimator", "info"]


def benchmark():
    spec = importlib.util.spec_from_file_location("robustness_options", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_combination_of_options_is_a_traceback():
    module = benchmark()
    tally = module.tried(15, 11, commands=LIGHT, run=module.in_process)
    assert sum(tally.codes.values()) == 15
    assert not tally.faults, tally.faults


def test_bad_usage_of_every_command_is_no_traceback():
    """Of the heavy commands, only lines that end before any work."""
    module = benchmark()
    for command in COMMANDS:
        for hostile in module.HOSTILE:
            result = module.CliRunner().invoke(module.main, [command, "--no-such-option", hostile])
            assert result.exit_code == 2
            assert len(result.stderr.splitlines()) == 1


def test_a_page_that_fails_leaves_the_run_whole(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("no page")

    monkeypatch.setattr("noiseshift.analysis.report._section", broken)
    monkeypatch.chdir(tmp_path)
    few = ns.data.reference()[:24]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    line = (
        "measure --samples 2 --sampler euler:2 --points 1 --estimator residual --data few.npz --out run --no-progress"
    )
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "run.json").exists()
    assert "warning: report.html was left out (RuntimeError: no page); the numbers are saved" in result.stderr


GATHERED = {"source": {"checkpoint", *LOADED_WITH}, "pipeline": set(PIPELINE)}
"""Fields that hold what several options say."""


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_takes_has_a_field_for_each_option(name):
    """A command of many options takes them as one object, which a missing field would only fail when it is run."""
    command = main.get_command(click.Context(main), name)
    taken = inspect.getmodule(inspect.unwrap(command.callback)).__dict__.get("Given")
    if taken is None:
        return  # few options, an argument each
    fields = set()
    for field in dataclasses.fields(taken):
        fields |= GATHERED.get(field.name, {field.name})
    assert fields == {param.name for param in command.params if param.expose_value}
