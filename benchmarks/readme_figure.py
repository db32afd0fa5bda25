"""The README's figure and words: runs the command that README.md gives, word for word, and draws what it measured.

    python benchmarks/readme_figure.py                 # a minute or two of processor time
    python benchmarks/readme_figure.py --folder RUN    # draw a run that is there

Writes docs/figures/readme-shift.png and prints the sentences that the README quotes, with the processor time of the command.
"""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import matplotlib.pyplot as plt
from noiseshift.analysis import drawing, plots
from noiseshift.analysis.answer import answer
from noiseshift.analysis.final_noise import residual_line

from noiseshift.studies.folders import Run

ROOT = Path(__file__).parent.parent


def command() -> list[str]:
    """The arguments of the README's first `noiseshift measure`."""
    found = re.search(r"bin/noiseshift (measure [^\n]*)", (ROOT / "README.md").read_text())
    assert found, "README.md gives no `noiseshift measure`"
    return shlex.split(found[1])


def draw(run: Run, path: Path) -> None:
    with drawing.style("cvpr-wide"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.875, 2.9), sharey=True)
        plots.plot_shift({name: run.reports[name] for name in ("network", "constant-pixel")}, ax=left)
        left.legend(loc="upper left")  # "best" knows nothing of bands
        left.set_title("the shift, as two estimators read it", fontsize=8)
        plots.plot_solver(run, "network", ax=right)
        right.set_ylabel("")
        right.set_title("whose it is, by the network estimator", fontsize=8)
        figure.savefig(path, dpi=200)
        plt.close(figure)


@click.command()
@click.option("--folder", type=click.Path(exists=True, path_type=Path))
def main(folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch) / "run"
            subprocess.run(
                [sys.executable, "-m", "noiseshift", *command(), "--out", str(folder), "--no-progress"], check=True
            )
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(f"processor time: {spent.ru_utime + spent.ru_stime:.0f} s")
        run = Run.load(folder)
        draw(run, ROOT / "docs" / "figures" / "readme-shift.png")
        print("\n".join([*answer(run).lines, residual_line(run)]))


if __name__ == "__main__":
    main()
