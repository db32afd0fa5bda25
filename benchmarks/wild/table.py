"""Strangers' checkpoints, each measured to the end or refused: what it took, and what its number says.

    python benchmarks/wild/table.py CHECKOUTS --mnist MNIST --out OUT

CHECKOUTS is a folder of git checkouts, one a repository, named owner+name (cases.py lists them); nothing is fetched, and weights
and other people's code stay there. MNIST is a folder with t10k-images-idx3-ubyte.gz and its labels. Each case runs in a process
of its own, since their modules share names.

A row is kept in OUT/rows when it is made, and a later run takes it from there: a run that was cut off goes on.

Prints the table: lines of wrapper, and those that `info --write-wrapper` did not write; largest difference of states and
predicted noise from their own code, and of samples from their own sampler's; the checks before a measurement; the shift in the
middle; seconds. Writes OUT/table.json, OUT/table.csv, and OUT/samples-1.png and so on, in which their own sampler's samples stand
beside ours from the same noise.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
COLUMNS = (
    "checkpoint",
    "convention",
    "lines",
    "lines filled in",
    "filled in",
    "parity",
    "samples apart",
    "checks",
    "shift",
    "seconds",
)


def lines_of(wrapper: Path) -> int:
    """Lines of code of a wrapper: no blank ones, no docstring."""
    lines = [line.strip() for line in wrapper.read_text().splitlines()]
    return sum(bool(line) and not line.startswith(('"""', "#")) for line in lines)


def run_case(case: Any, checkouts: Path, mnist: Path, out: Path, script: str = "one.py") -> dict[str, Any]:
    """A row, made by a script of this folder in a process of its own."""
    name = f"{case.repository} {case.file}"
    row = {"checkpoint": name, "convention": case.convention}
    wrapper = HERE / "wrappers" / f"{case.wrapper}.py"
    if wrapper.exists():  # some that are refused have none
        row["lines"] = lines_of(wrapper)
    if case.refused:
        return row | {"checks": f"refused: {case.refused}"}
    folder = checkouts / case.repository.replace("/", "+")
    paths = [HERE / "wrappers", *(folder / path for path in case.paths), HERE]
    words = [sys.executable, str(HERE / script), case.wrapper, str(mnist.resolve()), str(out.resolve())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in paths)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        return row | {"checks": f"failed: {(done.stderr.strip().splitlines() or ['it was ended'])[-1]}"}
    return row | json.loads(done.stdout.splitlines()[-1])


def kept(case: Any, checkouts: Path, mnist: Path, out: Path) -> dict[str, Any]:
    """A row, from an earlier run where it came to its end."""
    if case.refused:
        return run_case(case, checkouts, mnist, out)
    path = out / "rows" / f"{case.wrapper}.json"
    if path.exists():
        return json.loads(path.read_text())
    row = run_case(case, checkouts, mnist, out)
    if "table" in row:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row, indent=2) + "\n")
    return row


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    from cases import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("wild"))
    parser.add_argument("--only", help="wrappers, separated by commas")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wanted = [case for case in CASES if given.only is None or case.wrapper in given.only.split(",")]
    rows = []
    for case in wanted:
        rows.append(kept(case, given.checkouts, given.mnist, given.out))
        print("| " + " | ".join(str(rows[-1].get(column, "")) for column in COLUMNS) + " |", flush=True)
    (given.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    write_csv(rows, given.out / "table.csv")
    drawn = [case for case in wanted if (given.out / f"{case.wrapper}.npz").exists()]
    for start in range(0, len(drawn), A_FIGURE):
        draw(drawn[start : start + A_FIGURE], given.out, f"samples-{1 + start // A_FIGURE}.png")


A_FIGURE = 17
"""Checkpoints in one figure, at most."""


def draw(cases: list[Any], out: Path, name: str) -> None:
    """Their own samplers' samples on the left, ours from the same noise on the right."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(len(cases), 2, figsize=(9, 1.25 * len(cases)), squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        held = np.load(out / f"{case.wrapper}.npz")
        for place, side in zip(row, ("theirs", "ours"), strict=True):
            place.set_title(f"{case.wrapper}: {side}", fontsize=7)
            place.tick_params(labelsize=5)
            if held[side].ndim == 4:
                place.imshow(np.concatenate(list(held[side][:8, 0]), 1), cmap="gray", vmin=-1, vmax=1)
                place.axis("off")
            else:
                points = held[side].reshape(-1, held[side].shape[-1])
                place.scatter(points[:, 0], points[:, 1], s=1)
    figure.tight_layout()
    figure.savefig(out / name, dpi=110)


if __name__ == "__main__":
    main()
