"""Every command's `--dry-run` against the command itself: elapsed seconds, on a quiet machine.

A dry run counts the network's work. What a command does besides (figures, pages, starting) is a part of its elapsed time and so of
the ratio, which is why the runs are long enough for the work to lead.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner, Result
from harness import Row
from noiseshift.cli import main

from noiseshift.data import ASSETS

COMMANDS = {
    "measure": ["--samples", "256"],
    "sample": ["--samples", "512", "--out", "samples.png"],
    "approx": [],
    "correct": ["--samples", "256", "--nag", "0.5,1", "--cfg", "0.5"],
    "compare": ["--sampler", "euler:20", "--sampler", "em:20", "--samples", "256"],
    "train": ["--steps", "150", "--out", "trained"],
    "finetune": ["--steps", "100", "--out", "tuned"],
    "train-estimator": [
        "--data",
        str(ASSETS / "fashion-heldout.npz"),
        "--steps",
        "300",
        "--out",
        "estimator.safetensors",
    ],
}
"""Each a minute or so on a quiet core."""


def rows(repeats: int) -> Iterator[Row]:
    for command, options in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            yield _row(command, options, Path(folder))


def _row(command: str, options: list[str], folder: Path) -> Row:
    runner = CliRunner(env={"NOISESHIFT_CACHE": str(folder / "kept")})
    with runner.isolated_filesystem(folder):
        words = [command, *options, "--no-progress"]
        stated = _stated(_done(runner, [*words, "--dry-run"]))
        started = time.perf_counter()
        _done(runner, words)
        taken = time.perf_counter() - started
    off = max(taken / stated, stated / taken)
    note = f"took {taken:.0f} s, said {stated:.0f} s"
    return Row(f"{command} and its --dry-run, the larger over the less", [off], 1.25, note=note)


def _done(runner: CliRunner, words: list[str]) -> Result:
    result = runner.invoke(main, words)
    if result.exit_code:
        raise SystemExit(f"{' '.join(words)} failed: {result.output}")
    return result


def _stated(result: Result) -> float:
    """Seconds that a dry run printed."""
    line = next(line for line in result.stdout.splitlines() if line.startswith("hours on this device"))
    return 3600 * float(line.split()[-1])
