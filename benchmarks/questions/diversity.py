"""Does NAG cost diversity?

    python benchmarks/questions/diversity.py                 # a minute on one core
    python benchmarks/questions/diversity.py figure          # the figure alone, from the table

The bundled flow model, 10 Euler–Maruyama steps, 160 samples of the same seeds and classes under NAG at scales 0, 1 and
4. Against 1,000 held-out images in the bundled classifier's features: *recall* (share of real images that lie among the
samples), *precision* (share of samples that lie among real images), both with the tool's own 95 % intervals; the
entropy of the predicted classes; and *spread*, the mean distance of two samples of one class over that of two real
ones, with bootstrap intervals over samples. Writes docs/data/question-diversity.csv and
docs/figures/question-diversity.png.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, DOCS, MARKERS, classes, keep, save, steps_of, style

import noiseshift as ns
from noiseshift.data import to_uint8
from noiseshift.evaluation import ClassifierFeatures, coverage_change, extract

SCALES = (0.0, 1.0, 4.0)
SAMPLES = 160


def spread(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(10,) the mean distance of two rows of one class, by class."""
    found = []
    for label in range(10):
        rows = torch.from_numpy(values[labels == label])
        found.append(float(torch.pdist(rows.double()).mean()))
    return np.array(found)


def entropy(probs: np.ndarray) -> float:
    """Of the mean predicted class, in nats; log 10 = 2.303 is the most."""
    mean = probs.mean(0)
    return float(-(mean * np.log(mean)).sum())


def bootstrap(statistic, samples: int, repeats: int = 400) -> tuple[float, float]:
    source = np.random.default_rng(0)
    return tuple(
        np.quantile([statistic(source.integers(samples, size=samples)) for _ in range(repeats)], (0.025, 0.975))
    )


def main() -> None:
    checkpoint, data = ns.load(), ns.data.reference()[:1000]
    extractor = ClassifierFeatures()
    real = extract(data.pixels, extractor)
    labels, usual = classes(SAMPLES).numpy(), spread(real.values, data.labels.numpy())
    rows = []
    for scale in SCALES:
        model = ns.Guided(checkpoint.model, ns.noise_awareness(scale)) if scale else checkpoint.model
        *_, last = steps_of(model, "em:10", SAMPLES)
        found = extract(to_uint8(last.x), extractor)
        values, probs = found.values, found.probs
        precision, recall = (
            coverage_change(values, real.values),
            coverage_change(real.values, values),
        )

        def within(rows, values=values):
            kept = [np.unique(rows[labels[rows] == label]) for label in range(10)]
            pairs = [torch.pdist(torch.from_numpy(values[k]).double()).mean() for k in kept]
            return float(np.mean([float(p) for p in pairs] / usual))

        everything = np.arange(SAMPLES)
        rows.append(
            (
                scale,
                *(recall.value, recall.low, recall.high),
                *(precision.value, precision.low, precision.high),
                *(within(everything), *bootstrap(within, SAMPLES)),
                *(entropy(probs), *bootstrap(lambda rows, probs=probs: entropy(probs[rows]), SAMPLES)),
            )
        )
        print(rows[-1], flush=True)
    names = ("recall", "precision", "spread", "class entropy")
    table = pd.DataFrame(rows, columns=["NAG scale", *(f"{n}{end}" for n in names for end in ("", " low", " high"))])
    keep(table, "diversity", 3)
    draw(table)


def draw(table: pd.DataFrame) -> None:
    names = ("recall", "precision", "spread")
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(5.5, 2.3))
        for ax, name, colour, marker, label in zip(
            panels,
            names,
            COLOURS,
            MARKERS,
            ("recall", "precision", "spread within a class\n(real images = 1)"),
            strict=False,
        ):
            ax.vlines(table["NAG scale"], table[f"{name} low"], table[f"{name} high"], color=colour)
            ax.plot(table["NAG scale"], table[name], marker, linestyle="-", color=colour)
            ax.set(xlabel="NAG scale", ylabel=label)
        save(figure, "diversity")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["figure"]:  # from the table that is there
        draw(pd.read_csv(DOCS / "data" / "question-diversity.csv"))
    else:
        main()
