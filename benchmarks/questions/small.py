"""A distribution that is known exactly, and small networks trained on it: what questions 2 and 8 are measured with.

    python benchmarks/questions/small.py --out runs/small       # trains all of them, a quarter of an hour of one core; resumes

The distribution: the bundled 1,000 held-out Fashion-MNIST pictures, averaged to 8 × 8, and a mixture of ten Gaussians of
rank 16 fitted to them, one a class. Training draws 50,000 from the mixture. So the exact prediction at every state and
level is known, and the exact posterior p(t | x), and no estimator leans on the network that is measured.

The networks: the bundled transformer with 4 patches, depth 2, no classes, 2,000 steps of 64 at widths 32, 64 and 128,
and at width 64 without any noise condition (*noise-unconditional*: every row of training has the
null embedding in place of its time),
for velocities on the linear schedule, from three seeds; at width 64 with and without the condition for epsilons on the
DDPM table, from two. Averaged weights are kept after 2,
5, 10, 20, 50 and 100 % of the steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

import noiseshift as ns
from noiseshift.diffusion.models import NOISE_UNCONDITIONAL
from noiseshift.diffusion.schedules import Discrete, Linear
from noiseshift.evaluation import Moments
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.targets.fitting import fitted_mixture
from noiseshift.training.train import Objective, TrainingConfig, train

SHAPE = (1, 8, 8)
STEPS = 2000
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = (0, 1, 2)
OBJECTIVES = {
    "velocity": Objective(Linear(), "velocity", lambda t: 1000 * t),
    "epsilon": Objective(Discrete.from_betas(), "epsilon", lambda t: (1000 * t).round() - 1),
}


@dataclass(frozen=True)
class Cell:
    """One training."""

    predicts: str
    width: int
    seed: int
    unconditional: bool = False

    @property
    def name(self) -> str:
        return f"{self.predicts}-{self.width}{'-unconditional' * self.unconditional}-{self.seed}"


CELLS = [
    *(Cell("velocity", 64, seed, without) for seed in SEEDS for without in (False, True)),
    *(Cell("velocity", width, seed) for seed in SEEDS for width in (32, 128)),
    *(Cell("epsilon", 64, seed, without) for seed in SEEDS[:2] for without in (False, True)),
]


@cache
def law():
    """The mixture."""
    data = ns.data.reference()[:1000]
    pictures = F.avg_pool2d(F.pad(data.floats, (2, 2, 2, 2), value=-1.0), 4)
    return fitted_mixture(pictures, data.labels, 16)


def draws(count: int, seed: int) -> torch.Tensor:
    return law().sample(count, torch.Generator().manual_seed(seed)).float().reshape(count, *SHAPE)


@cache
def moments() -> Moments:
    """The mixture's own mean and covariance."""
    target = law()
    mean = target.weights @ target.means
    away = target.means - mean
    inside = (target.values - target.rest[:, None])[:, None] * target.basis @ target.basis.mT
    inside = inside + target.rest[:, None, None] * torch.eye(target.dim)
    cov = (target.weights[:, None, None] * (inside + away[:, :, None] * away[:, None])).sum(0)
    return Moments(mean.numpy(), cov.numpy())


class NoiseUnconditional:
    """A network that was trained without its noise condition, as a model: t is used to read its answer alone."""

    def __init__(self, model: NetworkModel):
        self.inner, self.schedule, self.predicts, self.branches = model, model.schedule, model.predicts, frozenset()
        self.snap = model.snap

    def __call__(self, x, t, cond=None):
        return self.inner.predict(x, t, cond, (NOISE_UNCONDITIONAL,))[0]

    def predict(self, x, t, cond, branches):
        return tuple(self(x, t, cond) for _ in branches)


def fresh(cell: Cell) -> Transformer:
    torch.manual_seed(cell.seed)
    shape = TransformerConfig(
        size=8, patch=4, width=cell.width, depth=2, heads=cell.width // 32, classes=0, noise_dropout=cell.unconditional
    )
    return Transformer(shape)


def trained(folder: Path, cell: Cell, share: float = 1.0):
    """The model of one training after a share of its steps."""
    network, objective = fresh(cell), OBJECTIVES[cell.predicts]
    state = torch.load(folder / cell.name / f"ema-{round(share * STEPS)}.pt", weights_only=True)
    network.load_state_dict(state)
    model = NetworkModel(
        network,
        objective.schedule,
        objective.predicts,
        objective.time_input,
        classes=0,
        class_dropout=False,
        noise_dropout=cell.unconditional,
        shape=SHAPE,
        levels=getattr(objective.schedule, "times", None),
    )
    return NoiseUnconditional(model) if cell.unconditional else model


def main(folder: Path, cells: Sequence[Cell] = CELLS) -> None:
    data = ns.data.Images(draws(50_000, seed=1), torch.zeros(50_000, dtype=torch.long))
    for cell in cells:
        config = TrainingConfig(
            steps=STEPS,
            batch=64,
            learning_rate=2e-3,
            noise_dropout=float(cell.unconditional),
            class_dropout=0.0,
            snapshots=SHARES,
            seed=cell.seed,
        )
        report = lambda step, loss, name=cell.name: (  # noqa: E731
            print(name, step + 1, f"{loss:.4f}", flush=True) if (step + 1) % 200 == 0 else None
        )
        train(fresh(cell), OBJECTIVES[cell.predicts], data, config, folder / cell.name, report=report)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[2]))
