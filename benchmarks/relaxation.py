"""How fast a real noise-unconditional branch takes back an excess of noise: the measured exponent of the relaxation law.

    python benchmarks/relaxation.py                 # both bundled checkpoints, two minutes on two CPU cores

Held-out images at t = 0.5 whose noise is 20 % too strong are sent down to t = 0.15 by 40 Euler steps under NAG, beside the
same images with the right noise. The ratio of the effective noise scales, c, is read by the network estimator at both
ends. With a perfect noise-unconditional velocity (c - 1) ∝ sigma^w on the linear schedule, with a perfect
noise-unconditional epsilon (sigma/alpha)^w: an exponent of w (found - found at w = 0 in brackets) says the branch is
perfect, 0 that it does nothing.
"""

from __future__ import annotations

import math

import click
import torch

import noiseshift as ns
from noiseshift.diffusion.models import Guided
from noiseshift.estimators import Network

START, END, EXCESS = 0.5, 0.15, 0.2


def excess(checkpoint, estimator, w: float, rows: int, start: float, end: float) -> tuple[float, float]:
    """c - 1 at both ends."""
    data = ns.data.reference()[:rows]
    model = Guided(checkpoint.model, ns.noise_awareness(w))
    times = torch.unique(checkpoint.model.snap(torch.linspace(start, end, 41).double())).flip(0)
    level = model.schedule(times[0]).like(data.floats)
    eps = torch.randn(data.floats.shape, generator=torch.Generator().manual_seed(0))
    ratio = []
    scales = []
    for factor in (1.0, 1.0 + EXCESS):
        x = level.alpha * data.floats + factor * level.sigma * eps
        *_, last = ns.sample(model, x, times, cond=data.labels)
        scales.append([model.schedule(estimator(s).mean).sigma.mean() for s in (x, last.x)])
    ratio = [float(strong / right) - 1 for right, strong in zip(*scales, strict=True)]
    return ratio[0], ratio[1]


@click.command()
@click.option("--rows", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(rows: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for name, start, end in (("fashion-sit", 0.5, 0.15), ("fashion-ddpm", 0.3, 0.1)):
        checkpoint = ns.load(name)
        estimator = Network.load(checkpoint.estimator)
        ends = checkpoint.model.schedule(torch.tensor([start, end]).double())
        scale = ends.sigma if name == "fashion-sit" else ends.sigma / ends.alpha
        fall = math.log(float(scale[1] / scale[0]))
        base = 0.0
        for w in (0.0, 0.5, 1.0, 2.0):
            first, last = excess(checkpoint, estimator, w, rows, start, end)
            found = math.log(last / first) / fall if last > 0 else math.inf
            base = found if w == 0 else base
            click.echo(
                f"{name}  w = {w:3.1f}  c - 1: {first:+.3f} at t = {start}, {last:+.4f} at t = {end}  exponent "
                f"{found:5.2f} ({found - base:+.2f})"
            )


if __name__ == "__main__":
    main()
