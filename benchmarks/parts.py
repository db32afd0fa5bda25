"""How often the shift by band and by group is called where there is none, and how often its joint intervals hold what is.

    python benchmarks/parts.py

320 repeats each, on exact distributions: random fields whose denoiser is a filter (tests/shift/test_parts.py), 64 sampling states
that are held-out data at their level against a calibration on 128 others, both drawn anew; and readings of three groups with their
own content. Prints the share of runs called shifted in any band at any level (5 % is nominal), that of single intervals which leave
out 0 (5 %), and, where states are at t + 0.02, the share of runs whose joint intervals hold 0.02 everywhere (95 %).
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "shift"))
import test_parts as exact

from noiseshift.estimators import parts
from noiseshift.shift.groups import measure_groups
from noiseshift.shift.parts import measure_parts

REPEATS, SAMPLES, REAL = 320, 64, 128


def bands(k, offset):
    calibration = exact.calibrated(parts.bands(exact.SHAPE), exact.data(REAL, 10_000 + k))[1]
    found = measure_parts(exact.steps(SAMPLES, 50_000 + 2 * k, offset=offset), calibration).table()
    read = found[found["shift"].notna()]
    covered = bool(((read.joint_low <= offset) & (read.joint_high >= offset)).all())
    return bool(read.significant.any()), read.resolved.mean(), covered


def groups(k):
    report, groups = exact.grouped(-1, SAMPLES, seed=1000 + k)
    found = measure_groups({"network": report}, groups)
    return bool(found.significant.any()), found.resolved.mean()


def share(values):
    mean = np.mean(values)
    return f"{100 * mean:5.1f} ± {196 * np.sqrt(mean * (1 - mean) / len(values)):.1f} %"


def main():
    torch.set_num_threads(1)
    for name, offset, start in (("no shift", 0.0, 0), ("shift of 0.02", 0.02, REPEATS)):
        called, single, held = zip(*(bands(start + k, offset) for k in range(REPEATS)), strict=True)
        words = (
            f"called {share(called)}, single cells {100 * np.mean(single):.1f} %, joint intervals hold it {share(held)}"
        )
        print(f"bands, {name}: {words}", flush=True)
    called, single = zip(*(groups(k) for k in range(REPEATS)), strict=True)
    print(f"groups, no shift: called {share(called)}, single cells {100 * np.mean(single):.1f} %", flush=True)


if __name__ == "__main__":
    main()
