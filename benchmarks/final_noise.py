"""Residual noise of final samples: how often noise is called where there is none, and how often the interval holds what is.

    python benchmarks/final_noise.py          # wavelet and constant coordinates
    python benchmarks/final_noise.py level    # the exact level estimator too, which takes ten times as long

1,000 repeats on exact distributions: Gaussian fields of the spectrum of pictures, with a dark rim, 64 samples against 128 real,
both drawn anew in every repeat. Prints, by reader and by the noise that was added, the share that is called "noise" or "smoother"
(at 0: the error rate, 5 % is nominal), the share of intervals that hold the truth (95 % is nominal), and the median of sigma.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "shift"))
from test_final_noise import Exact, noisy, textured

import noiseshift as ns
from noiseshift.shift.final_noise import LevelReader, default_readers

REPEATS, SAMPLES, REAL = 1000, 64, 128


def repeat(k, sigma, level):
    real = textured(REAL, 10_000 + 2 * k)
    samples = noisy(textured(SAMPLES, 10_001 + 2 * k), sigma, seed=50_000 + k)
    readers = default_readers(real) | ({} if level is None else {"level": level})
    return ns.residual_noise(samples, real, readers=readers, seed=k).assign(truth=sigma)


def main():
    torch.set_num_threads(1)
    level = LevelReader(Exact()) if sys.argv[1:] == ["level"] else None
    rows = []
    for sigma in (0.0, 0.1):
        rows += [repeat(k, sigma, level) for k in range(REPEATS)]
        found = pd.concat(rows).query("truth == @sigma")
        for reader, each in found.groupby("reader"):
            called = (each.verdict != "none seen").mean()
            covered = ((each.variance_low <= sigma**2) & (each.variance_high >= sigma**2)).mean()
            error = 1.96 * np.sqrt(covered * (1 - covered) / len(each))
            print(
                f"sigma {sigma:<5g} {reader:15s} n = {len(each):3d}  called {100 * called:5.1f} %  "
                f"covered {100 * covered:5.1f} ± {100 * error:.1f} %  median sigma {each.sigma.median():.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
