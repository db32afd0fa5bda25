"""A small run of benchmarks/robustness/fuzz_files.py; thousands are run there."""

import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parent.parent / "benchmarks" / "robustness" / "fuzz_files.py"


def test_mutated_files_of_every_kind_are_read_or_refused_in_a_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(FUZZ), "--quick", "--seed", "7"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "NOISESHIFT_FUZZ": os.environ.get("NOISESHIFT_FUZZ", "40"), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    total = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("all "))
    read, line, unnamed, *bad = map(int, total)
    assert read + line + unnamed > 0
    assert line > read, "the mutations change something"
    assert bad == [0, 0, 0]
