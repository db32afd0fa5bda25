"""The tables and the figure of the page on variants, for diffusers' caches, from the comparison of a pipeline that takes them.

    python benchmarks/caches/train.py --out runs/tiny-flux
    noiseshift compare --checkpoint runs/tiny-flux --embeddings runs/tiny-flux/embeddings.safetensors --size 28 --data heldout/ \\
      --sampler euler:20 --variant fp32 --variant cache=first-block:0.1 --variant cache=first-block:0.3 \\
      --variant cache=taylorseer:2 --variant cache=taylorseer:5 --variant cache=pab:2 --variant cache=faster:2 \\
      --variant cache=mag:0.06 --variant cache=mag:0.3 --variant steps=10 --samples 512 --estimator residual \\
      --extractor fashion --reference heldout/ --out runs/caches
    python benchmarks/caches/table.py runs/caches

`heldout/` has the t10k files of Debian's `dataset-fashion-mnist`. Writes docs/data/caches.csv, docs/data/caches-pairs.csv and
docs/figures/caches.png, and prints the page's table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from noiseshift.analysis.compare import _plot_changes

from noiseshift.studies.compare import Comparison

sys.path.insert(0, str(Path(__file__).parent.parent / "questions"))
from common import style

DOCS = Path(__file__).parent.parent.parent / "docs"
COLUMNS = (
    "variant",
    "sampler",
    "nfe",
    "samples",
    "skipped",
    "rms",
    "rms low",
    "rms high",
    "run_p",
    "terminal",
    "σ end",
)
ENDS = ("σ end low", "σ end high", "FD-fashion", "FD-fashion low", "FD-fashion high", "FD-fashion plain")


def against_first(found: Comparison) -> pd.DataFrame:
    """Every paired change against the first variant."""
    words = dict(zip(found.table.run, found.table.variant, strict=True))
    first = next(iter(found.runs))
    rows = found.pairs[found.pairs["first"] == first]
    changes = {"change": -rows.difference, "low": -rows.high, "high": -rows.low, "p": rows.p, "p holm": rows["p holm"]}
    named = {"quantity": rows.quantity, "variant": rows["second"].map(words), "against": words[first]}
    return pd.DataFrame(named | changes)


def draw(found: Comparison) -> None:
    names = list(found.runs)
    rows = found.pairs[found.pairs["first"] == names[0]]
    quantities = list(dict.fromkeys(rows.quantity))
    with style():
        figure, panels = plt.subplots(1, len(quantities) + 1, figsize=(9, 3.2), sharey=True)
        panels[0].barh(range(len(names)), found.table.skipped.fillna(0), color="#bbbbbb", height=0.5)
        panels[0].set_xlabel("share of attentions\nskipped")
        for panel, quantity in zip(panels[1:], quantities, strict=True):
            _plot_changes(panel, rows[rows.quantity == quantity], names)
        panels[0].set_yticks(range(len(names)), found.table.variant)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.savefig(DOCS / "figures" / "caches.png", dpi=200, bbox_inches="tight")
        plt.close(figure)


def printed(found: Comparison, changes: pd.DataFrame) -> None:
    """The page's table."""
    for row in found.table.to_dict("records"):
        mine = changes[changes.variant == row["variant"]].set_index("quantity")
        cells = [f"`{row['variant']}`", "" if pd.isna(row["skipped"]) else f"{100 * row['skipped']:.0f} %"]
        cells += [f"{row['rms']:.4f} [{row['rms low']:.4f}, {row['rms high']:.4f}]", f"{row['terminal']:+.4f}"]
        for name, unit, digits in (("mean δ²", 1e-7, 0), ("FD-fashion", 1, 2), ("residual noise variance", 1e-5, 1)):
            if name not in mine.index:
                cells.append("compared with")
                continue
            change = mine.loc[name]
            mark = "**" if change["p holm"] < 0.05 else ""
            low, value, high = (f"{change[end] / unit:+.{digits}f}" for end in ("low", "change", "high"))
            cells.append(f"{mark}{value}{mark} [{low}, {high}]")
        print("| " + " | ".join(cells).replace("-0.", "−0.").replace("-", "−") + " |")


if __name__ == "__main__":
    comparison = Comparison.load(sys.argv[1])
    table = against_first(comparison)
    comparison.table[[*COLUMNS, *ENDS]].round(6).to_csv(DOCS / "data" / "caches.csv", index=False)
    table.to_csv(DOCS / "data" / "caches-pairs.csv", index=False, float_format="%.3g")
    draw(comparison)
    printed(comparison, table)
