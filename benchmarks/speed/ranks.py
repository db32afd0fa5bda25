"""Two processes under torchrun against one, of one thread each: elapsed time of the same samples. Needs two quiet cores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Row

SAMPLES, BATCH = 256, 32


def rows(repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        few = [_seconds(Path(folder) / f"few-{ranks}.npz", ranks, 2 * BATCH) for ranks in (1, 2)]
        values = []
        for k in range(max(2, repeats // 2)):
            one, two = (_seconds(Path(folder) / f"{k}-{ranks}.npz", ranks, SAMPLES) for ranks in (1, 2))
            values.append((one - few[0]) / (two - few[1]))
    note = f"{SAMPLES} samples by 50 Euler steps, less what starting takes"
    yield Row("one rank over two ranks, elapsed", values, 1.8, least=True, note=note)


def _seconds(out: Path, ranks: int, samples: int) -> float:
    words = ["sample", "--sampler", "euler:50", "--samples", str(samples), "--batch", str(BATCH), "--no-progress"]
    run = (
        ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "-m", "noiseshift"]
        if ranks > 1
        else ["-m", "noiseshift"]
    )
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", *run, *words, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started
