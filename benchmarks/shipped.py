"""Make the answers that ship with the package again, or compare them: see `noiseshift/studies/shipped.py`.

    python benchmarks/shipped.py            # compares; 90 seconds of processor time
    python benchmarks/shipped.py --write    # writes them into noiseshift/assets

Runs `noiseshift measure` without arguments, with an empty cache folder and nothing shipped, and takes what it keeps. Prints for
each file the largest difference from what the package has, in parts of an array's spread; exits with 1 where one is missing or
above 0.001.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner
from noiseshift.cli import main

from noiseshift.studies import shipped

KINDS = ("calibration", "samples")


@click.command()
@click.option("--write", is_flag=True, help="Write them in place of comparing.")
def run(write: bool) -> None:
    """Make the shipped answers again."""
    place = shipped.FOLDER
    with tempfile.TemporaryDirectory() as scratch:
        shipped.FOLDER = Path(scratch) / "nothing shipped"
        words = ["measure", "--out", f"{scratch}/run", "--no-progress"]
        result = CliRunner().invoke(main, words, env={"NOISESHIFT_CACHE": f"{scratch}/kept"}, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        shipped.FOLDER = place
        made = [(kind, _read(path)) for kind in KINDS for path in sorted(Path(scratch, "kept").glob(f"{kind}-*.npz"))]
    if write:
        for path in place.glob("shipped-*.npz"):
            path.unlink()
        for kind, (about, arrays) in made:
            print(shipped.save(kind, about, arrays))
        return
    off = [(kind, _difference(shipped.load(kind, about), arrays)) for kind, (about, arrays) in made]
    for kind, difference in off:
        print(f"{kind:12s} {difference:.1e}")
    sys.exit(any(not difference < shipped.SAME for _, difference in off))


def _read(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    with np.load(path) as found:
        arrays = dict(found)
    return json.loads(str(arrays.pop("about"))), arrays


def _difference(was: dict[str, np.ndarray] | None, now: dict[str, np.ndarray]) -> float:
    if was is None:
        return np.inf
    return max(float(np.abs(was[name] - now[name]).max() / (np.std(now[name]) + 1e-12)) for name in now)


if __name__ == "__main__":
    run()
