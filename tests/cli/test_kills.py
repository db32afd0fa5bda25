"""Twenty kills of whole commands; benchmarks/robustness/kills.py does hundreds, and tests/writing kills at every change."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "robustness" / "kills.py"


def test_every_command_that_is_killed_runs_again_to_the_same_result():
    words = [sys.executable, "-W", "ignore", str(BENCHMARK), "--kills", "20"]  # all commands, all kinds of kill
    found = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "20 kills, 0 faults" in found.stdout
