"""Is the level network robust off its distribution, and do other readers agree?

    python benchmarks/questions/reader.py          # a minute and a half on one core

120 held-out images at the levels 0.1, 0.3 and 0.5, read as they are and with one thing changed: the picture (blurred,
JPEG, quantised to 8 greys) or the noise (uniform or Laplace instead of Gaussian, or band-limited, all of the right
variance). δ is the mean change of a reading over the calibration's slope, paired over images, with its 95 % interval
(Student's t). No level is changed: whatever is read is the reader's mistake about noise, or a change of content that it
takes for noise. Writes docs/data/question-reader.csv and
docs/figures/question-reader.png.
"""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, LINES, MARKERS, interval, keep, save, style
from matplotlib.image import imread
from PIL import Image
from scipy.ndimage import gaussian_filter

import noiseshift as ns
from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.constant_pixel import ConstantPixel
from noiseshift.estimators.residual import Residual

LEVELS = (0.1, 0.3, 0.5)
ROWS = 120


def blurred(pictures: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(pictures.numpy(), (0, 0, 0.7, 0.7))).float()


def jpeg(pictures: torch.Tensor) -> torch.Tensor:
    found = []
    for picture in pictures[:, 0]:
        kept = io.BytesIO()
        Image.fromarray(((picture.numpy() + 1) * 127.5).round().astype(np.uint8)).save(kept, "jpeg", quality=30)
        found.append(imread(kept, format="jpeg").astype(np.float32) / 127.5 - 1)
    return torch.from_numpy(np.stack(found))[:, None]


def quantised(pictures: torch.Tensor) -> torch.Tensor:
    return ((pictures + 1) * 3.5).round() / 3.5 - 1


def band_limited(noise: torch.Tensor) -> torch.Tensor:
    smooth = torch.from_numpy(gaussian_filter(noise.numpy(), (0, 0, 0.5, 0.5), mode="wrap")).float()
    return smooth / smooth.std() * noise.std()


def uniform(noise: torch.Tensor) -> torch.Tensor:
    return 12**0.5 * (torch.special.ndtr(noise) - 0.5)


def laplace(noise: torch.Tensor) -> torch.Tensor:
    share = torch.special.ndtr(noise).clamp(1e-6, 1 - 1e-6) - 0.5
    return -share.sign() * torch.log1p(-2 * share.abs()) / 2**0.5


CHANGES = {
    "picture blurred": (blurred, None),
    "picture as JPEG": (jpeg, None),
    "picture in 8 greys": (quantised, None),
    "uniform noise": (None, uniform),
    "Laplace noise": (None, laplace),
    "band-limited noise": (None, band_limited),
}


def main() -> None:
    checkpoint, data = ns.load(), ns.data.reference()
    schedule = checkpoint.model.schedule
    pictures, labels = data.floats[:ROWS], data.labels[:ROWS]
    held, classes = data.floats[ROWS : 2 * ROWS], data.labels[ROWS : 2 * ROWS]
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    times = torch.tensor(LEVELS, dtype=torch.float64)
    makers = {
        "network": lambda: checkpoint.level_estimator(),
        "residual": lambda: Residual(
            checkpoint.model, held, times, generator=torch.Generator().manual_seed(0), cond=classes
        ),
        "constant-pixel": lambda: ConstantPixel(held, schedule),
    }
    rows = []
    for reader, make in makers.items():
        estimator = make()
        slope = ns.calibrate(estimator, held, times, cond=classes).calibration.slope
        for t, s in zip(LEVELS, slope, strict=True):
            level = schedule(torch.tensor(t))

            def read(x0, eps, level=level, t=t, estimator=estimator):
                x = level.mix(x0, eps)
                return estimator(x, labels, step=Step(0, torch.tensor(t, dtype=torch.float64), x)).mean

            plain = read(pictures, noise)
            for name, (content, drawn) in CHANGES.items():
                other = read(content(pictures) if content else pictures, drawn(noise) if drawn else noise)
                rows.append((reader, name, t, *interval((other - plain) / float(s))))
        print(reader, flush=True)
    table = pd.DataFrame(rows, columns=["reader", "change", "t", "δ", "low", "high"])
    keep(table, "reader")
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(5.5, 2.9), sharey=True)
        names = list(CHANGES)[::-1]
        for ax, t in zip(panels, LEVELS, strict=True):
            ax.axvline(0, color="black", linewidth=0.8)
            for k, reader in enumerate(makers):
                part = table[(table.t == t) & (table.reader == reader)].set_index("change").loc[names]
                places = np.arange(len(names)) + 0.22 * (1 - k)
                ax.hlines(places, part.low, part.high, color=COLOURS[k], linestyle=LINES[k])
                ax.plot(part["δ"], places, MARKERS[k], color=COLOURS[k], label=reader, markersize=3.5)
            ax.set(title=f"t = {t}", yticks=range(len(names)), yticklabels=names)
            ax.tick_params(axis="x", labelsize=6)
        panels[1].set_xlabel("shift δ that is read where there is none")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        save(figure, "reader")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
