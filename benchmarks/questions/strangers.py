"""Does any of it hold on strangers' checkpoints?

    python benchmarks/wild/table.py CHECKOUTS --mnist MNIST --out OUT      # measures them, half an hour on one core
    python benchmarks/questions/strangers.py OUT                           # seconds

Reads the rows that `benchmarks/wild/table.py` keeps in OUT/rows: checkpoints of public repositories, 48 samples at 25 steps of a
sampler of the kind of their own, δ at up to four levels by an estimator that needs no training. A checkpoint whose checks before
the measurement fail is shown hollow: its numbers are not to be used. Writes docs/data/question-strangers.csv and
docs/figures/question-strangers.png.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from common import COLOURS, MARKERS, keep, save, style

sys.path.insert(0, str(Path(__file__).parent.parent / "wild"))
from cases import CASES


def rows(folder: Path) -> pd.DataFrame:
    """A row per checkpoint and level that can be read."""
    found = []
    for case in CASES:
        path = folder / "rows" / f"{case.wrapper}.json"
        if case.refused or not path.exists():
            continue
        row = json.loads(path.read_text())
        significant, p = re.fullmatch(r"RunAnswer\((.*), p = ([\d.e-]+|nan), by .*\)", row["answer"]).groups()
        for level in row["table"]:
            # States that are nothing like noised data read beyond the ends of the schedule: that is no level.
            if level["t"] + level["high"] >= 0 and level["t"] + level["low"] <= 1:
                found.append(
                    {
                        "checkpoint": row["checkpoint"],
                        "sampler": case.sampler,
                        "checks": row["checks"].split(":")[0],
                        "any shift": "yes" if significant == "a shift" else "not significant",
                        "p": float(p),
                        "estimator": level["estimator"],
                        "t": level["t"],
                        "δ": level["shift"],
                        **{end: level[end] for end in ("low", "high", "band_low", "band_high")},
                        "resolved": level["resolved"],
                    }
                )
    return pd.DataFrame(found)


def draw(table: pd.DataFrame) -> None:
    table = table.sort_values("checks", ascending=False, kind="stable")
    names = list(dict.fromkeys(table.checkpoint))
    with style():
        figure, ax = plt.subplots(figsize=(5.5, 0.6 + 0.27 * len(names)))
        ax.axvline(0, color="black", linewidth=0.8)
        for k, (t, part) in enumerate(table.groupby(table.t.round(2))):
            places = [len(names) - 1 - names.index(name) + 0.18 * (1.5 - k) for name in part.checkpoint]
            ax.hlines(places, part.low, part.high, color=COLOURS[k % 8], linewidth=1)
            for checks, filled in (("passed", True), ("failed", False)):
                some = (part.checks == checks).to_numpy()
                fill = COLOURS[k % 8] if filled else "white"
                at = [place for place, one in zip(places, some, strict=True) if one]
                label = f"t = {t:.2f}" if filled else None
                ax.plot(
                    part["δ"][some],
                    at,
                    MARKERS[k % 8],
                    color=COLOURS[k % 8],
                    markerfacecolor=fill,
                    label=label,
                    markersize=3.5,
                )
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xticks([-0.3, -0.05, -0.01, 0, 0.01, 0.05, 0.3], ["−0.3", "−0.05", "−0.01", "0", "0.01", "0.05", "0.3"])
        ax.minorticks_off()
        short = [f"{name.split('/')[0]}, {name.split(' ')[-1].split('/')[-1]}" for name in names]
        ax.set(
            yticks=range(len(names)),
            yticklabels=short[::-1],
            xlabel="noise shift δ (logarithmic beyond ±0.01)",
            ylim=(-0.8, len(names) - 0.2),
        )
        ax.tick_params(axis="y", labelsize=6.5)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
        save(figure, "strangers")


if __name__ == "__main__":
    found = rows(Path(sys.argv[1]))
    keep(found, "strangers")
    draw(found)
