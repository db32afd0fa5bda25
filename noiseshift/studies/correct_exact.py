"""Corrections on exact models: what each does when the network is perfect and its noise-unconditional branch too.

The data are a Gaussian with a power-law spectrum, a low-rank mixture, or held-out images (`Empirical`). δ is read by the
exact posterior p(t | x), calibrated on fresh draws; the Fréchet distance is that of the data's own coordinates to the
target's exact moments (in the Gaussian's eigenbasis, where everything is independent). What is left is the solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.correction.alternatives import EstimatedLevel
from noiseshift.correction.methods import Method, MethodContext
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import INITIAL, SAMPLING, TARGET, generator, generators, normal, torch_generator
from noiseshift.diffusion.samplers import Scheduled, per_sample_noise, sample
from noiseshift.diffusion.schedules import Linear, Schedule
from noiseshift.diffusion.solvers import Solver
from noiseshift.estimators.instrument import calibrate
from noiseshift.evaluation import Features, Moments, frechet_distance
from noiseshift.shift.reading import assemble, read_run
from noiseshift.shift.report import ShiftReport
from noiseshift.targets import Empirical, Gaussian, GaussianMixture, LowRank, Target

TIMES = (0.9, 0.7, 0.5, 0.3, 0.1)


@dataclass(frozen=True)
class ExactCase:
    """A distribution on which corrections are tried with an exact model.

    Attributes:
        name: what it is called.
        target: the distribution.
        moments: its mean and covariance.
        diagonal: whether its coordinates are independent, so that only variances are compared.
        shape: of a state; None for what the target draws.
        basis: (d, d) in whose columns coordinates are independent; None for the axes.
    """

    name: str
    target: Target
    moments: Moments
    diagonal: bool = False
    shape: tuple[int, ...] | None = None
    basis: np.ndarray | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, …).

        Args:
            count: how many.
            generator: draws them.
        """
        found = self.target.sample(count, generator)
        return found if self.shape is None else found.reshape(count, *self.shape)

    def distance(self, final_samples: Tensor) -> float:
        """Fréchet distance of samples (n, …) to the target."""
        values = final_samples.flatten(1).double().numpy()
        values = values if self.basis is None else values @ self.basis
        if not self.diagonal:
            return frechet_distance(Features(self.name, values).moments, self.moments)
        spread = values.std(0, ddof=1)
        exact = np.sqrt(np.diag(self.moments.cov))
        return float(np.square(values.mean(0) - self.moments.mean).sum() + np.square(spread - exact).sum())


def power_law(dim: int = 256, exponent: float = 1.0) -> ExactCase:
    """Zero-mean Gaussian whose k-th variance is k^-exponent.

    Args:
        dim: d.
        exponent: at least 0.
    """
    variances = torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent
    moments = Moments(np.zeros(dim), np.diag(variances.numpy()))
    return ExactCase("gaussian", Gaussian(torch.zeros(dim, dtype=torch.float64), variances), moments, diagonal=True)


def fields(side: int = 16, exponent: float = 1.0) -> ExactCase:
    """Gaussian pictures (1, side, side): the variance of a cosine of frequency k is (1 + k²)^-exponent.

    Args:
        side: pixels.
        exponent: at least 0.
    """
    k = np.arange(side)
    cosines = np.cos(np.pi * (k[:, None] + 0.5) * k / side) * np.where(k == 0, 1, 2**0.5) / side**0.5
    basis = np.kron(cosines, cosines)
    variances = (1.0 + (k[:, None] ** 2 + k**2)).reshape(-1) ** -exponent
    cov = torch.from_numpy(basis * variances @ basis.T)
    target = Gaussian(torch.zeros(side**2, dtype=torch.float64), (cov + cov.T) / 2)
    moments = Moments(np.zeros(side**2), np.diag(variances))
    return ExactCase("fields", target, moments, diagonal=True, shape=(1, side, side), basis=basis)


def mixture(dim: int = 64, components: int = 10, rank: int = 8) -> ExactCase:
    """Equal components of low rank, means of variance 0.25 a coordinate.

    Args:
        dim: d.
        components: equally likely.
        rank: of each component's covariance, besides 1e-3 in every direction.
    """
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(components, dim, generator=generator, dtype=torch.float64)
    factors = 0.5 * torch.randn(components, dim, rank, generator=generator, dtype=torch.float64) / rank**0.5
    rest = torch.full((components,), 1e-3, dtype=torch.float64)
    target = GaussianMixture(torch.ones(components, dtype=torch.float64), means, LowRank(factors, rest))
    mean = means.mean(0)
    within = (factors @ factors.mT).mean(0) + 1e-3 * torch.eye(dim, dtype=torch.float64)
    cov = within + (means - mean).T @ (means - mean) / components
    return ExactCase("mixture", target, Moments(mean.numpy(), cov.numpy()))


def images(pixels: Tensor, name: str = "images") -> ExactCase:
    """The exact denoiser of a finite set of images (N, C, H, W) in [-1, 1].

    Args:
        pixels: float, all of equal weight.
        name: of the case.
    """
    return ExactCase(name, Empirical(pixels), Features(name, pixels.flatten(1).double().numpy()).moments)


def correct_exact(
    case: ExactCase,
    solver: Solver,
    methods: Sequence[Method],
    *,
    schedule: Schedule | None = None,
    blind: str = "velocity",
    paths: int = 512,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> pd.DataFrame:
    """Corrections on an exact model, whose marginals are already right.

    Args:
        case: the distribution.
        solver: how it is sampled.
        methods: the first one's run is the pilot of a closed loop.
        schedule: Linear by default.
        blind: the space in which the exact noise-unconditional branch answers.
        paths: how many samples.
        seed: of the samples.
        progress: called as (stage, done, total).

    Returns:
        A row per method: δ at five times (NaN where the reading is insensitive), its rms, and the exact Fréchet distance `fd`. A
        method that fails or diverges has NaN or a large fd. One that acts along height and width has no row where states have none.
    """
    schedule = schedule or Linear()
    rows: list[dict[str, Any]] = []
    pilot: ShiftReport | None = None
    flat = case.shape is None and not isinstance(case.target, Empirical)
    methods = [method for method in methods if not (method.pictures and flat)]
    for done, method in enumerate(methods):
        progress(f"{case.name}, {solver.name}", done, len(methods))
        found, report = _one(case, solver, method, schedule, blind, paths, seed, pilot)
        pilot = pilot or report
        rows.append({"target": case.name, "sampler": solver.name, "method": method.name} | found)
    progress(f"{case.name}, {solver.name}", len(methods), len(methods))
    return pd.DataFrame(rows)


def _one(
    case: ExactCase,
    solver: Solver,
    method: Method,
    schedule: Schedule,
    blind: str,
    paths: int,
    seed: int,
    pilot: ShiftReport | None,
) -> tuple[dict[str, float], ShiftReport | None]:
    model: Model = case.target.model(schedule, blind=blind)  # type: ignore[arg-type]
    estimator = case.target.estimator(schedule)
    grid = solver.grid(model)
    update = solver.update()
    if grid is None or isinstance(update, Scheduled):
        raise ValueError("--exact takes this tool's samplers: euler, heun, ddim, ddpm or em")
    inside = grid[(grid > 0) & (grid < 1)].double()
    read = torch.stack([inside[(inside - t).abs().argmin()] for t in TIMES]).unique().flip(0)
    data = case.draw(max(paths // 2, 64), torch_generator(generator(0, seed=seed, stream=TARGET)))
    instrument = calibrate(estimator, data, read, seed=seed, slope_rows=32)
    built = method.make(MethodContext(model, None, EstimatedLevel(estimator), pilot))
    sources = generators(range(paths), seed=seed, stream=SAMPLING)
    start = normal(generators(range(paths), seed=seed, stream=INITIAL), data.shape[1:]).to(data)
    move = built.update(update) if built.update else update
    steps = sample(built.model, start, grid, update=move, noise=per_sample_noise(sources))
    try:
        batch = read_run(steps, {"exact": instrument}, content=False)
    except ValueError:  # a diverged run: states or readings are not finite
        return {"rms": float("nan"), "fd": float("inf")}, None
    report = assemble([batch], {"exact": instrument})["exact"]
    table = report.table()
    shifts = {f"δ({t:.2g})": value for t, value in zip(read.tolist(), table["shift"], strict=True)}
    usable = table["shift"].dropna()
    return shifts | {"rms": float(np.sqrt((usable**2).mean())), "fd": case.distance(batch.final)}, report
