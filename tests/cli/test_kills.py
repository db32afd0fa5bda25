"""Twenty kills of whole commands; benchmarks/robustness/kills.py does hundreds, and tests/writing kills at every change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "robustness" / "kills.py"


@pytest.mark.parametrize(
    ("kills", "commands"),
    [(8, "sample,measure,approx,correct"), (12, "compare,train,finetune,train-estimator")],
)
def test_every_command_that_is_killed_runs_again_to_the_same_result(kills, commands):
    words = [sys.executable, "-W", "ignore", str(BENCHMARK), "--kills", str(kills), "--only", commands]
    found = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{kills} kills, 0 faults" in found.stdout
