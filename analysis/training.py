"""Pictures of a training: its loss, and what the network makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noiseshift.analysis.drawing import style, write_figure
from noiseshift.analysis.samples import plot_states, save_samples

if TYPE_CHECKING:
    from torch import Tensor


def save_pictures(pictures: Tensor, labels: Tensor | None, folder: Path) -> None:
    """`loss.png` from the log in `folder`, and `samples.png` of uint8 `pictures` (N, C, H, W) or of states, into it."""
    import matplotlib.pyplot as plt

    from noiseshift.training.states import read_log

    rows = read_log(folder)
    with style():
        figure, ax = plt.subplots()
        ax.plot([row["step"] for row in rows], [row["loss"] for row in rows], marker="o", markersize=3)
        ax.set(xlabel="training step", ylabel="mean squared error")
        write_figure(figure, folder / "loss.png")
        plt.close(figure)
        if pictures.is_floating_point():
            states = plot_states(pictures).figure
            write_figure(states, folder / "samples.png")
            plt.close(states)
            return
    save_samples(pictures, labels, folder / "samples.png")
