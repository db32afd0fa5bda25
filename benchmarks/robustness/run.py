"""All robustness benchmarks in a row, and one table: tried, survived, at fault.

    python benchmarks/robustness/run.py                                    about half an hour on one core
    python benchmarks/robustness/run.py --kills 20 --files 200 --lines 50 --runs 20 --rounds 1 --steps 2      some minutes

Each part is a script of this folder in a process of its own; what it prints is shown as it comes. A part of size 0 is left out.
Exit code 1 where anything was lost, mixed, a traceback, a hang or a crash.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """One benchmark: its words, and the pattern whose first group is how many were tried, the second how many at fault."""

    name: str
    words: list[str]
    result: str


@click.command()
@click.option("--kills", default=200, show_default=True, help="Commands that are killed.")
@click.option("--rounds", default=5, show_default=True, help="Pairs of processes in one place, for each command.")
@click.option("--steps", default=6, show_default=True, help="Full disks, for each command.")
@click.option("--files", default=5000, show_default=True, help="Damaged files.")
@click.option("--lines", default=1500, show_default=True, help="Command lines with hostile values.")
@click.option("--runs", default=200, show_default=True, help="Command lines that run to the end.")
@click.option("--seed", default=0, show_default=True)
def main(kills: int, rounds: int, steps: int, files: int, lines: int, runs: int, seed: int) -> None:
    found = [_run(part, seed) for size, part in _parts(kills, rounds, steps, files, lines, runs) if size]
    print(f"\n{'':24s}{'tried':>8s}{'survived':>10s}{'at fault':>10s}")
    for name, tried, faults in found:
        print(f"{name:24s}{tried:8d}{tried - faults:10d}{faults:10d}")
    sys.exit(any(faults or not tried for _, tried, faults in found))


def _parts(kills: int, rounds: int, steps: int, files: int, lines: int, runs: int) -> list[tuple[int, Part]]:
    tally = r"combinations +(\d+)[\s\S]*?faults +(\d+)"
    return [
        (kills, Part("killed", ["kills.py", "--kills", str(kills)], r"(\d+) kills, (\d+) faults")),
        (rounds, Part("two at once", ["two_at_once.py", "--rounds", str(rounds)], r"(\d+) pairs, (\d+) faults")),
        (steps, Part("full disks", ["full_disk.py", "--steps", str(steps)], r"(\d+) full disks, (\d+) faults")),
        (files, Part("damaged files", ["fuzz_files.py", "--count", str(files)], r"(\d+) of \d+ files, (\d+) at fault")),
        (lines, Part("hostile lines", ["options.py", "--runs", str(lines)], tally)),
        (runs, Part("lines that run", ["options.py", "--working", "--runs", str(runs)], tally)),
    ]


def _run(part: Part, seed: int) -> tuple[str, int, int]:
    """Name, tried, at fault; a part that ends without its last line has tried nothing, which is a fault of this table."""
    seeded = [] if part.words[0] == "full_disk.py" else ["--seed", str(seed)]
    print(f"\n== {part.name}", flush=True)
    command = [sys.executable, "-W", "ignore", str(HERE / part.words[0]), *part.words[1:], *seeded]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as job:
        assert job.stdout is not None
        for line in job.stdout:
            print(line, end="", flush=True)
            said.append(line)
    counts = re.findall(part.result, "".join(said))
    tried, faults = map(int, counts[-1]) if counts else (0, 0)
    return part.name, tried, max(faults, int(job.returncode != 0))


if __name__ == "__main__":
    main()
