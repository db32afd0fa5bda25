"""Distance against the shift that is left, as two estimators see it, from a finished `noiseshift correct` folder.

python benchmarks/correction_figure.py runs/early-correct docs/figures/correction-early.png
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import pandas as pd
from noiseshift.analysis.correct import plot_trade
from noiseshift.analysis.plots import style


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--distance", default="FD-fashion", show_default=True)
@click.option("--estimator", "estimators", multiple=True, default=["network", "constant-pixel"], show_default=True)
def main(folder: Path, out: Path, distance: str, estimators: tuple[str, ...]) -> None:
    table = pd.read_csv(folder / "methods.csv")
    with style():
        figure, panels = plt.subplots(
            1, len(estimators), figsize=(4.5 * len(estimators), 3.4), sharey=True, squeeze=False
        )
        for ax, estimator in zip(panels[0], estimators, strict=True):
            plot_trade(table, distance=distance, estimator=estimator, ax=ax)
        for ax in panels[0][:-1]:
            ax.get_legend().remove()
        figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
