"""What noiseshift's parts cost, each against a bound: one table.

    python benchmarks/speed                           all rows, about twenty minutes on one quiet core
    python benchmarks/speed --only distances          one part: sampling, loops, asking, distances, job, ranks, dry
    python benchmarks/speed --repeats 9
    python benchmarks/speed --out docs/data/speed.csv

A value is a ratio of processor times (one thread) of two pieces of work that are done in turns in one process, its median and
quartiles over the repeats; or a count, or a peak of memory. `ranks` and `dry` take elapsed times, and need a quiet
machine. azula is compared where it is installed (`pip install --no-deps azula`, and einops; its core needs no torchvision).
Printed: a line a row with its bound and whether that is met, and how many are missed. --out also writes them as a table; its other
parts stay when it is run with --only.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import click
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))
import asking
import distances
import dry_runs
import job
import loops
import ranks
import sampling
from harness import Row

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
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A CSV file.")
def main(only: str, repeats: int, out: Path | None) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    missed = 0
    for name in only.split(","):
        found = []
        for row in PARTS[name].rows(repeats):
            click.echo(row)
            found.append(row)
            missed += not row.met
        if out is not None:
            _keep(out, name, found)
    click.echo(f"{missed} missed")


def _keep(out: Path, part: str, rows: list[Row]) -> None:
    """Write a part's rows in place of those that the table has of it."""
    made = pd.DataFrame([{"part": part, **row.cells()} for row in rows])
    earlier = pd.read_csv(out, dtype=str, keep_default_na=False) if out.exists() else made[:0]
    both = pd.concat([earlier[earlier.part != part], made.astype(str)])
    both.sort_values("part", key=lambda names: names.map(list(PARTS).index), kind="stable").to_csv(out, index=False)


if __name__ == "__main__":
    main()
