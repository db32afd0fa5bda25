"""What each correction reduces of the distance, in shares of the unguided one, along a model's training.

    python benchmarks/training_figure.py docs/figures/correction-training.png 2=RUN 5=RUN 20=RUN 100=RUN 100=OTHER

Each RUN is a finished `noiseshift correct` folder of the snapshot at so many per cent of the training; several of one
snapshot are taken together.
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from noiseshift.analysis.plots import style

SHOWN = {
    "nag=1": "NAG 1",
    "projection": "projection",
    "nag-score=0.5": "NAG 0.5, as scores",
    "cfg=1": "CFG 1",
    "cfg=1,nag=1": "CFG 1 and NAG 1",
}


def shares(folder: Path, trained: float) -> pd.DataFrame:
    """Change of FD-fashion and its interval in per cent of none, a row per method."""
    table = pd.read_csv(folder / "methods.csv").set_index("method")
    share = 100 * table[["change", "change low", "change high"]] / table.loc["none", "FD-fashion"]
    return share.assign(trained=trained).loc[[name for name in SHOWN if name in share.index]].reset_index()


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True, metavar="PERCENT=RUN…")
def main(out: Path, runs: tuple[str, ...]) -> None:
    pairs = [run.split("=", 1) for run in runs]
    table = pd.concat([shares(Path(folder), float(trained)) for trained, folder in pairs])
    with style():
        figure, ax = plt.subplots(figsize=(5.4, 3.6))
        styles = zip(SHOWN.items(), "osD^v", sns.color_palette("colorblind", len(SHOWN)), strict=True)
        for (name, label), marker, color in styles:
            rows = table[table.method == name].groupby("trained").first().reset_index()
            reach = abs(rows[["change low", "change high"]].sub(rows["change"], axis=0)).T.to_numpy()
            ax.errorbar(rows.trained, rows.change, reach, marker=marker, color=color, capsize=2, label=label)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log")
        ticks = sorted(table.trained.unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("share of the training (%)")
        ax.set_ylabel("change of FD-fashion (% of unguided)")
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
