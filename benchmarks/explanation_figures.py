"""The figures of docs/explanation: each idea on an exact model, in closed form where there is one.

    python benchmarks/explanation_figures.py              # all of them, half a minute on one core
    python benchmarks/explanation_figures.py --only nag

Data are Gaussian with 784 directions of variance 20 k^-1.5, as pictures have them, unless the caption says else; a solver's step is
linear on them, so that the states' variances are exact. Writes docs/figures/explanation-NAME.png and what each shows as
docs/data/explanation-NAME.csv.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from noiseshift.analysis import drawing
from questions.common import reports
from reinforcement import exact_shift, exact_states

import noiseshift as ns

HERE = Path(os.environ.get("NOISESHIFT_DOCS") or Path(__file__).parent.parent / "docs")
VARIANCES = 20 * torch.arange(1, 785, dtype=torch.float64) ** -1.5
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
LINES = ("-", "--", ":", "-.")


def shifts(word: str) -> pd.DataFrame:
    """δ of a perfect network's states at every step of a solver that lies between .05 and .95."""
    solver = ns.solver(word)
    times, held = exact_states(solver.update(), solver.steps, VARIANCES)
    rows = [(float(t), exact_shift(t, h, VARIANCES)) for t, h in zip(times, held, strict=True) if 0.05 <= t <= 0.95]
    return pd.DataFrame(rows, columns=["t", "shift"]).assign(solver=word)


def shift() -> pd.DataFrame:
    """One picture at three levels, and the level that a perfect network's states have under a coarse stochastic solver."""
    table = pd.concat([shifts(word) for word in ("em:10", "em:20", "em:50")], ignore_index=True)
    with drawing.style("iclr"):
        figure = plt.figure(figsize=(5.5, 2.4))
        cells = figure.add_gridspec(3, 2, width_ratios=(1, 3.2))
        picture = ns.data.reference().pixels[7].float()
        picture = picture / 127.5 - 1 if picture.max() > 1 else picture
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
        for row, level in enumerate((0.2, 0.3, 0.4)):
            ax = figure.add_subplot(cells[row, 0])
            ax.imshow(ns.Linear()(torch.tensor(level)).mix(picture, noise)[0], cmap="gray", vmin=-1.5, vmax=1.5)
            ax.set(xticks=[], yticks=[])
            ax.set_ylabel(f"level {level}", rotation=0, ha="right", va="center")
        ax = figure.add_subplot(cells[:, 1])
        ax.axhline(0, color="black", linewidth=0.8)
        for line, marker, colour, (word, part) in zip(
            LINES, "osD", (BLUE, RED, GREEN), table.groupby("solver"), strict=False
        ):
            ax.plot(
                part.t,
                part["shift"],
                line,
                marker=marker,
                markevery=2 if len(part) > 30 else 1,
                color=colour,
                label=f"{word[3:]} steps",
            )
        ax.set(
            xlim=(1, 0),
            xlabel="conditioning time t (1 is noise, 0 is data)",
            ylabel="noise shift δ = effective\nminus conditioning level",
        )
        ax.legend(title="Euler–Maruyama, perfect network")
        save(figure, "shift")
    return table


def estimator() -> pd.DataFrame:
    """How sharply one state tells its level, by the number of its dimensions."""
    rows = []
    for d in (16, 256, 4096):
        variances = 0.25 * torch.cat([torch.ones(max(d // 16, 1)), 1e-3 * torch.ones(d - max(d // 16, 1))]).double()
        generator = torch.Generator().manual_seed(1)
        x = 0.7 * variances.sqrt() * torch.randn(d, generator=generator).double()
        x = x + 0.3 * torch.randn(d, generator=generator).double()
        levels = torch.linspace(0.001, 0.999, 1999, dtype=torch.float64)
        total = (1 - levels[:, None]) ** 2 * variances + levels[:, None] ** 2
        log = -0.5 * (total.log() + x**2 / total).sum(1)
        density = (log - log.max()).exp()
        density = density / (density.sum() * (levels[1] - levels[0]))
        rows.append(pd.DataFrame({"t": levels, "density": density / density.max(), "dimensions": d}))
    table = pd.concat(rows, ignore_index=True)
    with drawing.style("iclr"):
        figure, ax = plt.subplots(figsize=(5.5, 2.3))
        for line, colour, (d, part) in zip(LINES, (GREEN, RED, BLUE), table.groupby("dimensions"), strict=False):
            ax.plot(part.t, part.density, line, color=colour, label=f"{d:,} dimensions")
        ax.axvline(0.3, color="black", linewidth=0.8)
        ax.annotate("true level", (0.3, 1.02), ha="center", va="bottom", annotation_clip=False, fontsize=8)
        ax.set(
            xlim=(0, 1), ylim=(0, 1.15), xlabel="level t", ylabel="posterior p(t | x) of one state\n(largest value = 1)"
        )
        ax.legend()
        save(figure, "estimator")
    return table[::20]


def calibration() -> pd.DataFrame:
    """Readings of real and of sampling states at one conditioning level, and the curve that turns a difference into δ."""
    checkpoint = ns.load()
    found, _ = reports(
        checkpoint, "em:20", {"network": checkpoint.level_estimator()}, samples=128, real=400, at=(0.25,)
    )
    report = found["network"]
    read = pd.DataFrame(
        {
            "states": ["sampling"] * len(report.sampled.t) + ["real"] * len(report.calibration.real.t),
            "reading": [*report.sampled.t[:, 0].tolist(), *report.calibration.real.t[:, 0].tolist()],
        }
    )
    with drawing.style("iclr"):
        figure, ax = plt.subplots(figsize=(5.5, 2.3))
        for name, colour, hatch in (("real", GREY, ""), ("sampling", BLUE, "////")):
            part = read[read.states == name].reading
            ax.hist(
                part,
                bins=np.linspace(0.22, 0.3, 33),
                density=True,
                alpha=0.6,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                label=f"{name} states",
            )
            ax.axvline(part.mean(), color=colour, linewidth=1.5)
        ax.axvline(0.25, color="black", linestyle=":", label="conditioning level")
        ax.set(xlabel="level read from one state", ylabel="share of states\n(density)", yticks=[])
        ax.legend()
        save(figure, "calibration")
    return read


def controls() -> pd.DataFrame:
    """Step refinement of a perfect network and of one whose x0 keeps a fiftieth of the noise."""
    target = ns.targets.Gaussian(torch.zeros(784).double(), VARIANCES)
    exact = target.model(ns.Linear())

    def leaving(x, t, cond):
        said = exact(x, t, cond)
        return said.x0 + 0.02 * said.level.sigma / said.level.alpha.clamp_min(0.1) * said.eps

    rows = []
    for name, model in (
        ("perfect network", exact),
        ("network that leaves noise", ns.wrap(leaving, ns.Linear(), predicts="x0")),
    ):
        found = {}
        for steps in (20, 40, 80):
            times, held = exact_states(ns.euler_maruyama(), steps, VARIANCES, model)
            found[steps] = {round(float(t), 3): exact_shift(t, h, VARIANCES) for t, h in zip(times, held, strict=True)}
        for k in range(1, 20):
            t = round(1 - k / 20, 3)
            n, two, four = (found[steps][t] for steps in (20, 40, 80))
            rows.append((name, t, n, two, four, 2 * four - two))
    table = pd.DataFrame(rows, columns=["network", "t", "20 steps", "40 steps", "80 steps", "limit"])
    with drawing.style("iclr"):
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 2.5), sharey=True)
        for ax, (name, part) in zip(panels, table.groupby("network", sort=False), strict=True):
            ax.axhline(0, color="black", linewidth=0.8)
            for line, colour, column in zip(
                LINES, (RED, "#E69F00", "#56B4E9"), ("20 steps", "40 steps", "80 steps"), strict=False
            ):
                ax.plot(part.t, part[column], line, color=colour, label=column)
            ax.plot(
                part.t, part.limit, "-", color=BLUE, linewidth=2, marker="o", markersize=3, label="limit of many steps"
            )
            ax.set(xlim=(1, 0), xlabel="conditioning time t", title=name)
        panels[0].set_ylabel("noise shift δ")
        panels[0].legend(fontsize=7)
        save(figure, "controls")
    return table


def statement() -> pd.DataFrame:
    """First order over the exact shift, by schedule, for white noise of a tenth and of half of σ."""
    rows = []
    schedules = {"linear": ns.Linear(), "cosine": ns.Cosine(), "variance preserving": ns.VariancePreserving()}
    for name, schedule in schedules.items():
        for t in torch.linspace(0.05, 0.75, 15, dtype=torch.float64):
            for share in (0.1, 0.5):
                sigma = float(schedule(t).sigma)
                first = float(ns.approximation.first_order_shift(schedule, t, torch.tensor(share * sigma)))
                try:
                    root = float(ns.approximation.exact_shift(schedule, t, torch.tensor(share * sigma)))
                except ValueError:
                    root = float("nan")
                rows.append((name, float(t), share, first, root, first / root))
    table = pd.DataFrame(
        rows, columns=["schedule", "t", "error over σ", "first order", "exact", "first order over exact"]
    )
    with drawing.style("iclr"):
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 2.4), sharey=True)
        for ax, share in zip(panels, (0.1, 0.5), strict=True):
            for line, colour, (name, part) in zip(
                LINES,
                (BLUE, RED, GREEN),
                table[table["error over σ"] == share].groupby("schedule", sort=False),
                strict=False,
            ):
                ax.plot(part.t, part["first order over exact"], line, color=colour, label=name)
            ax.set(xlim=(1, 0), ylim=(0, 1.1), xlabel="conditioning time t", title=f"error = {share:g} σ")
        panels[0].set_ylabel("Statement 1 over the exact\nshift (1 is right)")
        panels[0].legend(loc="lower right")
        save(figure, "statement")
    return table


def nag() -> pd.DataFrame:
    """An excess of noise of 20 % on its way to the data, under NAG with a perfect noise-unconditional branch."""
    rows = []
    start = 0.9
    for scale in (0.0, 0.5, 1.0, 2.0):
        rho, steps = 1.2 * start, 4000
        times = torch.linspace(start, 0.05, steps + 1).tolist()
        for now, following in pairwise(times):
            rho += (following - now) * ((1 + scale) * rho / now - scale)
            rows.append((scale, following, rho / following - 1))
    table = pd.DataFrame(rows, columns=["scale", "t", "excess"])[::200].reset_index(drop=True)
    with drawing.style("iclr"):
        figure, ax = plt.subplots(figsize=(5.5, 2.3))
        for line, colour, (scale, part) in zip(LINES, (GREY, GREEN, BLUE, RED), table.groupby("scale"), strict=True):
            ax.plot(
                part.t,
                100 * part.excess,
                line,
                color=colour,
                label=f"w = {scale:g}" + (" (unguided)" if scale == 0 else ""),
            )
        ax.set(xlim=(0.9, 0), ylim=(0, 22), xlabel="time t", ylabel="excess of noise over σ (%)")
        ax.legend(ncols=2)
        save(figure, "nag")
    return table


def limits() -> pd.DataFrame:
    """What a perfect network's final samples lack, and the shift that appears when they stand in for real images."""
    rows = []
    for word in ("euler:5", "euler:10", "euler:20", "em:5", "em:10", "em:20"):
        solver = ns.solver(word)
        times, held = exact_states(solver.update(), solver.steps, VARIANCES)
        last = held[-1]
        fine = (last[392:] / VARIANCES[392:]).mean()
        t = float(times[(times - 0.2).abs().argmin()])
        state = held[int((times - 0.2).abs().argmin())]
        renoised = (1 - t) ** 2 * last + t**2
        real, own = exact_shift(t, state, VARIANCES), exact_shift(t, renoised, VARIANCES)
        rows.append((word, float(fine), t, real, real - own))
    table = pd.DataFrame(
        rows, columns=["solver", "fine detail kept", "t", "against real data", "against final samples"]
    )
    with drawing.style("iclr"):
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 2.5), sharey=True)
        places = range(len(table))
        panels[0].barh(places, 100 * table["fine detail kept"], color=GREY)
        panels[0].axvline(100, color="black", linewidth=0.8)
        panels[0].set(
            yticks=list(places),
            yticklabels=table.solver,
            xlabel="variance of fine detail in the\nfinal samples (% of the data's)",
        )
        panels[1].axvline(0, color="black", linewidth=0.8)
        panels[1].plot(table["against real data"], places, "o", color=BLUE, label="against real data")
        panels[1].plot(
            table["against final samples"],
            places,
            "D",
            color=RED,
            markerfacecolor="none",
            label="against its final\nsamples, re-noised",
        )
        panels[1].set(xlabel="shift δ read at t = 0.2")
        panels[1].legend(fontsize=7)
        save(figure, "limits")
    return table


FIGURES: dict[str, Callable[[], pd.DataFrame]] = {
    each.__name__: each for each in (shift, estimator, calibration, controls, statement, nag, limits)
}


def save(figure, name: str) -> None:
    figure.savefig(HERE / "figures" / f"explanation-{name}.png", dpi=200)
    plt.close(figure)


@click.command()
@click.option("--only", type=click.Choice(list(FIGURES)), multiple=True)
def main(only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    (HERE / "data").mkdir(exist_ok=True)
    for name in only or FIGURES:
        table = FIGURES[name]()
        table.round(6).to_csv(HERE / "data" / f"explanation-{name}.csv", index=False)
        print(f"explanation-{name}: {len(table)} rows")
        if len(table) < 60:
            print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
