"""Pictures of a training: its loss, and samples of what it made."""

from __future__ import annotations

import json
from pathlib import Path

from noiseshift.analysis.after import spared
from noiseshift.analysis.plots import save_samples, style

from noiseshift.writing import whole_file


@spared("a picture of the training")
def save_pictures(checkpoint: Path, *, samples: int = 40) -> None:
    """`loss.png` from the log beside `checkpoint`, and `samples.png`, 50 Euler steps."""
    import matplotlib.pyplot as plt

    from noiseshift.checkpoints import load
    from noiseshift.studies.protocol import Protocol
    from noiseshift.studies.sampling import draw

    rows = [json.loads(line) for line in (checkpoint.parent / "log.jsonl").read_text().splitlines()]
    with style():
        figure, ax = plt.subplots()
        ax.plot([row["step"] for row in rows], [row["loss"] for row in rows], marker="o", markersize=3)
        ax.set(xlabel="step", ylabel="mean squared error")
        with whole_file(checkpoint.parent / "loss.png") as fresh:
            figure.savefig(fresh)
        plt.close(figure)
    pictures, labels = draw(load(checkpoint), Protocol("euler:50", samples=samples))
    save_samples(pictures, labels, checkpoint.parent / "samples.png")
