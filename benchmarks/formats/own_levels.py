"""Which level does a network of EDM or EDM2 err least at, when its own code calls it? Nothing of noiseshift takes part.

    python benchmarks/formats/own_levels.py edm CLONE runs/formats/17-1000      # a clone of NVlabs's sources, a folder of
    python benchmarks/formats/own_levels.py edm2 CLONE runs/formats/18-1000     # measure_formats.py

Real shapes with noise of a known sigma are denoised by the network as NVlabs's code has it, once conditioned on that sigma and once
on another. Prints, by sigma, the error under each, in % of that under its own, with standard errors of the paired difference.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
FACTORS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.3)
ROWS = 256


def errors(network, x, labels, eps, sigma, conditioned):
    """(N,) mean squared error of the noise in each row."""
    with torch.no_grad():
        said = network(x + sigma * eps, torch.full((len(x),), conditioned), labels)
    return ((said - x) / sigma).square().mean((1, 2, 3)).double()


def main():
    which, clone, folder = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    sys.path.insert(0, str(clone))  # the pickle is one that measure_formats.py has just made
    network = pickle.loads((folder / f"{which}.pkl").read_bytes())["ema"].float().eval()
    real = np.load(folder / "real.npz")
    rows = torch.randperm(len(real["images"]), generator=torch.Generator().manual_seed(0))[:ROWS]
    x = torch.from_numpy(real["images"]).float()[rows] / 127.5 - 1
    labels = nn.functional.one_hot(torch.from_numpy(real["labels"]).long()[rows], 10).float()
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    print(f"{'sigma':>6s} {'error':>8s}" + "".join(f"{factor:>16.2f}" for factor in FACTORS))
    for sigma in SIGMAS:
        own = errors(network, x, labels, eps, sigma, sigma)
        cells = []
        for factor in FACTORS:
            off = errors(network, x, labels, eps, sigma, factor * sigma) - own
            cells.append(f"{float(off.mean() / own.mean()):+8.1%} ± {float(off.std() / ROWS**0.5 / own.mean()):5.1%}")
        print(f"{sigma:6.2f} {float(own.mean()):8.4f}" + " ".join(["", *cells]))


if __name__ == "__main__":
    main()
