"""How does NAG compare with other corrections at equal network calls?

    python benchmarks/questions/methods.py --out runs/methods    # a quarter of an hour on one core; resumes
    python benchmarks/questions/methods.py figure                # the figure alone, from the table

The bundled flow model, Euler–Maruyama, 600 samples of the same seeds and classes under every method, bf16. Methods that
ask the network once a step take 20 steps, NAG, which asks twice, takes 10: 20 calls a sample each. Every method has the
scales that were tried, and all of them are in the table. FD-fashion is to the bundled statistics of the training set,
without its bias of few samples; its change is against 20 unguided steps, and against as many
unguided steps (*same steps*), paired. δ is its rms over levels, by the level
network and by the constant pixels, over the first 192 samples. Writes docs/data/question-methods.csv and
docs/figures/question-methods.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, DOCS, LINES, MARKERS, keep, save, style

import noiseshift as ns
from noiseshift.correction.methods import (
    epsilon_scaling,
    guided_method,
    noise_level_correction,
    projection,
    score_rescaling,
    time_shift,
    wavelets,
)
from noiseshift.evaluation import ClassifierFeatures, load_reference
from noiseshift.studies.correct import fingerprint, run, shards_of
from noiseshift.studies.protocol import Protocol

ONCE = (
    *(epsilon_scaling(b) for b in (0.98, 0.99, 1.01)),
    *(time_shift(window) for window in (0.05, 0.2)),
    *(wavelets(low) for low in (-0.1, -0.03, 0.03)),
    *(score_rescaling(k, 0.1) for k in (0.8, 1.25)),
    projection(),
    noise_level_correction(),
)
TWICE = tuple(guided_method(nag=w, name=f"nag={w:g}") for w in (0.5, 1.0, 2.0))
SAMPLES, MEASURED = 600, 192


def corrected(word: str, methods, folder: Path):
    checkpoint, data, extractor = ns.load(), ns.data.reference(), ClassifierFeatures()
    protocol = Protocol(
        ns.solver(word), samples=SAMPLES, estimators={"network": None, "constant-pixel": None}, precision="bf16"
    ).bound(checkpoint)
    about = fingerprint(checkpoint, protocol, data, extractor, MEASURED, None)
    return run(
        checkpoint,
        protocol,
        methods,
        data,
        extractor,
        load_reference(ns.data.ASSETS / "fashion-statistics.npz", extractor),
        measured=MEASURED,
        shards=shards_of(folder / word.replace(":", "-"), about, methods),
        progress=lambda stage, done, total: print(stage, done, total, flush=True),
    )


def main(folder: Path) -> None:
    once, twice = corrected("em:20", ONCE, folder), corrected("em:10", TWICE, folder)
    base, rows = once.outcomes[0], []
    for steps, found in ((20, once), (10, twice)):
        table = found.table()
        for outcome, row in zip(found.outcomes, table.to_dict("records"), strict=True):
            change = outcome.distance.minus(base.distance)
            value = outcome.distance.change()
            rows.append(
                {
                    "method": outcome.method.name,
                    "steps": steps,
                    "calls": outcome.nfe,
                    **{
                        f"rms δ, {name}{end}": row[f"rms{end} {name}"]
                        for name in ("network", "constant-pixel")
                        for end in ("", " low", " high")
                    },
                    "FD-fashion": value.value,
                    "FD low": value.low,
                    "FD high": value.high,
                    "change": change.value,
                    "change low": change.low,
                    "change high": change.high,
                    **{f"{name}, same steps": row[name] for name in ("change", "change low", "change high")},
                }
            )
    table = pd.DataFrame(rows)
    keep(table, "methods")
    draw(table)


def draw(table: pd.DataFrame) -> None:
    names = [
        f"{row.method}, {row.steps} steps" if row.method == "none" or row.steps == 10 else row.method
        for row in table.itertuples()
    ]
    places = np.arange(len(table))[::-1]
    with style():
        figure, (shift, distance) = plt.subplots(1, 2, figsize=(5.5, 3.4), sharey=True)
        for k, (reader, label) in enumerate((("network", "level network"), ("constant-pixel", "constant pixels"))):
            at, column = places + 0.2 * (1 - 2 * k), f"rms δ, {reader}"
            shift.hlines(at, table[f"{column} low"], table[f"{column} high"], color=COLOURS[k], linestyle=LINES[k])
            shift.plot(table[column], at, MARKERS[k], color=COLOURS[k], label=label, markersize=3)
        distance.hlines(places, table["FD low"], table["FD high"], color=COLOURS[2])
        distance.plot(table["FD-fashion"], places, MARKERS[2], color=COLOURS[2], markersize=3)
        for ax, value in ((shift, table["rms δ, network"][0]), (distance, table["FD-fashion"][0])):
            ax.axvline(value, color="black", linewidth=0.7, linestyle=":")
        shift.set(yticks=places, yticklabels=names, xlabel="rms noise shift δ")
        shift.tick_params(axis="y", labelsize=7)
        distance.set(xscale="log", xlabel="FD-fashion (log scale)")
        distance.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 15], ["0.1", "0.2", "0.5", "1", "2", "5", "15"])
        distance.minorticks_off()
        shift.legend(loc="upper right", fontsize=7)
        save(figure, "methods")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["figure"]:
        draw(pd.read_csv(DOCS / "data" / "question-methods.csv"))
    else:
        main(Path(sys.argv[2]))
