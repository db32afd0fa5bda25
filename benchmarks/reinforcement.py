"""Solvers of reinforcement learning on flows beside Euler–Maruyama: the noise shift they make, with a network and without error.

    python benchmarks/reinforcement.py            # the bundled flow model, 192 samples; 10 minutes on one core
    python benchmarks/reinforcement.py exact      # an exact Gaussian, closed form; seconds

Prints tables of δ (in t) by level, at 10, 20 and 50 steps. "exact" reads the noise level of states of a Gaussian of 784
dimensions, spectrum k^-1.5, by the average posterior; everything that a solver does to it is linear, so that states are Gaussian
with known variances, and δ solves E log p_{t + δ}(x) = max.
"""

import sys

import torch

import noiseshift as ns

SOLVERS = ("em", "flow-sde", "cps", "precise")
STEPS = (10, 20, 50)
LEVELS = (0.8, 0.6, 0.4, 0.2, 0.1)


def word(name, steps):
    return f"{name}:{steps},a=0.7" if name == "flow-sde" else f"{name}:{steps}"


def exact_states(update, steps, variances, model=None):
    """(steps + 1, d) variances of the states of a diagonal Gaussian, by a draw of two signs a direction: signal and noise add up
    in squares, each step's gain and noise is read off by running it on x = 1 with noise 0 and on x = 0 with noise 1."""
    if model is None:  # without an error
        model = ns.targets.Gaussian(torch.zeros(len(variances)).double(), variances).model(ns.Linear())
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    found = [torch.ones_like(variances)]
    for k in range(steps):
        pair = times[k : k + 2]
        one, zero = torch.ones(1, len(variances)).double(), torch.zeros(1, len(variances)).double()
        *_, gain = ns.sample(model, one, pair, update=update, noise=torch.zeros_like)
        *_, drawn = ns.sample(model, zero, pair, update=update, noise=torch.ones_like)
        found.append(gain.x[0] ** 2 * found[-1] + drawn.x[0] ** 2)
    return times, torch.stack(found)


def exact_shift(t, held, variances):
    """δ of states with variances `held` at t: the level whose Gaussian is nearest, in KL."""
    low, high = 1e-4, 1.0
    for _ in range(4):  # finer and finer around the least
        levels = torch.linspace(low, high, 101, dtype=torch.float64)
        total = (1 - levels[:, None]) ** 2 * variances + levels[:, None] ** 2
        least, cell = float(levels[(total.log() + held / total).sum(1).argmin()]), (high - low) / 100
        low, high = max(least - 2 * cell, 1e-4), min(least + 2 * cell, 1.0)
    return least - float(t)


def exact():
    variances = 20 * torch.arange(1, 785, dtype=torch.float64) ** -1.5
    print(
        "| solver | " + " | ".join(f"δ({t:g})" for t in LEVELS) + " | residual σ |\n|---|" + "---|" * (len(LEVELS) + 1)
    )
    for name in SOLVERS:
        for steps in STEPS:
            times, held = exact_states(ns.solver(word(name, steps)).update(), steps, variances)
            shifts = [exact_shift(times[k], held[k], variances) for k in (nearest(times, t) for t in LEVELS)]
            least = (held[-1] - variances)[-100:].mean()
            cells = " | ".join(f"{shift:+.4f}" for shift in shifts)
            print(f"| {word(name, steps)} | {cells} | {float(least.clamp_min(0).sqrt()):.4f} |", flush=True)


def nearest(times, t):
    return int((times - t).abs().argmin())


def network():
    checkpoint, data = ns.load(), ns.data.reference()
    for name in SOLVERS:
        for steps in STEPS:
            protocol = ns.Protocol(word(name, steps), samples=192, estimators={"network": None}, points=8)
            table = ns.run(checkpoint, protocol, data).reports["network"].table()
            cells = "; ".join(f"{r.t:.2f}: {r.shift:+.4f} [{r.low:+.4f}, {r.high:+.4f}]" for r in table.itertuples())
            print(f"{word(name, steps)}: {cells}", flush=True)


if __name__ == "__main__":
    exact() if sys.argv[1:] == ["exact"] else network()
