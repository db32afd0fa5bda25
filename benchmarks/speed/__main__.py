"""What noiseshift's parts cost, each against a bound: one table.

    python benchmarks/speed                           all rows, about twenty minutes on one quiet core
    python benchmarks/speed --only distances          one part: sampling, loops, asking, distances, job, ranks, dry
    python benchmarks/speed --repeats 9

A value is a ratio of processor times (one thread) of two pieces of work that are done in turns in one process, its median and
quartiles over the repeats; or a count, or a peak of memory. `ranks` and `dry` take elapsed times, and need a quiet
machine. azula is compared where it is installed (`pip install --no-deps azula`, and einops; its core needs no torchvision).
Printed: a line a row with its bound and whether that is met, and how many are missed.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent))
import asking
import distances
import dry_runs
import job
import loops
import ranks
import sampling

PARTS = {
    "sampling": sampling,
    "loops": loops,
    "asking": asking,
    "distances": distances,
    "job": job,
    "ranks": ranks,
    "dry": dry_runs,
}


@click.command()
@click.option("--only", default=",".join(PARTS), show_default=True, help="Parts, joined by commas.")
@click.option("--repeats", default=5, show_default=True)
def main(only: str, repeats: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    missed = 0
    for name in only.split(","):
        for row in PARTS[name].rows(repeats):
            click.echo(row)
            missed += not row.met
    click.echo(f"{missed} missed")


if __name__ == "__main__":
    main()
