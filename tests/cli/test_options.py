"""A few random combinations of options, as `benchmarks/robustness/options.py` runs thousands."""

import importlib.util
import sys
from pathlib import Path

from noiseshift.cli import COMMANDS

PATH = Path(__file__).parents[2] / "benchmarks" / "robustness" / "options.py"
LIGHT = ["sample", "report", "evaluate", "train-estimator", "info"]


def benchmark():
    spec = importlib.util.spec_from_file_location("robustness_options", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_combination_of_options_is_a_traceback():
    tally = benchmark().tried(15, 11, commands=LIGHT, seconds=60)
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
