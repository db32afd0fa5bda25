"""`noiseshift approx` from end to end: Statement 1 against injected errors and against the errors of real runs.

Half of the held-out images calibrates; the other half is what known errors are added to. Each solver's run is followed
beside a fine one from the same seeds, once with the checkpoint and once with the exact denoiser of the held-out images,
whose fine run is the exact solution up to its step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from noiseshift.approximation import (
    ApproximationReport,
    PathReport,
    Spectrum,
    assemble,
    check,
    follow,
    refine,
    refined_noise,
)
from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion import solvers
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import SAMPLING, generators
from noiseshift.diffusion.samplers import per_sample_noise, sample
from noiseshift.diffusion.schedules import describe
from noiseshift.diffusion.solvers import Solver
from noiseshift.estimators.instrument import calibrate
from noiseshift.studies.checking import checked
from noiseshift.studies.folders import versions as package_versions
from noiseshift.studies.protocol import Protocol, fingerprint
from noiseshift.studies.readers import build, on_device, read_times, split
from noiseshift.studies.sampling import Progress, initial_noise, labels
from noiseshift.targets import Empirical
from noiseshift.writing import whole_folder, write_table

PATH_SLOPE_ROWS = 32
"""Real images that give the slope of a calibration for followed runs."""


@dataclass(frozen=True)
class Plan:
    """What a study of Statement 1 does.

    Attributes:
        solvers: whose real runs are followed.
        times: where known errors are injected.
        ratios: σ_e/σ_t of the injected errors, scaled down at a t where the schedule ends before the largest.
        rows: real states that they are injected into.
        samples: paths of each real run.
        substeps: fine steps for each coarse one.
        points: how many times of a path are read.
        estimators: names of what reads them.
        seed: of everything that is drawn.
        device: where the network computes.
        precision: of the network, "fp32" or "bf16".
    """

    solvers: tuple[Solver, ...]
    times: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
    rows: int = 160
    samples: int = 48
    substeps: int = 6
    points: int = 8
    estimators: tuple[str, ...] = ("network", "residual")
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "solvers", tuple(map(solvers.solver, self.solvers)))
        for solver in self.solvers:
            if solver.reference() is None:
                raise ValueError(f"{solver.name} has no path to be compared with: use euler, heun, ddim or em")
        if not all(ratio > 0 for ratio in self.ratios) or not self.ratios:
            raise ValueError("ratios are σ_e/σ_t: give one or more numbers above 0")
        if self.substeps < 2 or self.samples < 2 or self.rows < 8:
            raise ValueError("a study needs at least 2 substeps, 2 samples and 8 rows")

    def protocol(self, solver: Solver) -> Protocol:
        """The protocol of one solver's runs."""
        return Protocol(
            solver,
            samples=self.samples,
            estimators=dict.fromkeys(self.estimators),
            points=self.points,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Study:
    """What `run` found.

    Attributes:
        manifest: what decides the numbers, and versions.
        injected: an injection report per estimator.
        paths: a path report for each (solver, model, estimator), where model is `checkpoint` or `exact`.
    """

    manifest: dict[str, Any]
    injected: dict[str, ApproximationReport]
    paths: dict[tuple[str, str, str], PathReport]

    def __repr__(self) -> str:
        solvers = ", ".join(dict.fromkeys(solver for solver, *_ in self.paths))
        name = self.manifest["checkpoint"]["name"]
        return (
            f"Study({name} under {solvers}, as {', '.join(self.injected)} read: see .injection_table(), .path_table())"
        )

    def injection_table(self) -> pd.DataFrame:
        """All estimators' tables, with a column `estimator`."""
        return pd.concat([r.table().assign(estimator=name) for name, r in self.injected.items()], ignore_index=True)

    def limits_table(self) -> pd.DataFrame:
        return pd.concat([r.limits().assign(estimator=name) for name, r in self.injected.items()], ignore_index=True)

    def path_table(self) -> pd.DataFrame:
        """All runs' tables, with columns `sampler`, `model` and `estimator`."""
        tables = [
            r.table().assign(sampler=sampler, model=model, estimator=name)
            for (sampler, model, name), r in self.paths.items()
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def spectra(self) -> dict[str, np.ndarray]:
        """Each run's spectrum (K, F) by `sampler model estimator`."""
        return {" ".join(key): report.spectrum for key, report in self.paths.items()}

    def summary(self) -> dict[str, Any]:
        """Manifest and tables, ready for JSON."""
        tables = {"injected": self.injection_table(), "limits": self.limits_table(), "paths": self.path_table()}
        return {"run": self.manifest} | {name: json.loads(t.to_json(orient="records")) for name, t in tables.items()}

    def save(self, folder: str | Path) -> Path:
        """`run.json`, `summary.json`, `injected.parquet`, `limits.parquet`, `paths.parquet` and `spectra.npz`, whole or
        not at all. Returns the folder."""
        with whole_folder(folder, "approx") as fresh:
            self.write(fresh)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the study's files into a fresh folder."""
        (folder / "run.json").write_text(json.dumps(self.manifest, indent=2, default=str) + "\n")
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2, default=str) + "\n")
        write_table(folder / "injected.parquet", self.injection_table())
        write_table(folder / "limits.parquet", self.limits_table())
        write_table(folder / "paths.parquet", self.path_table())
        arrays: dict[str, Any] = self.spectra()
        np.savez_compressed(folder / "spectra.npz", **arrays)


def run(
    checkpoint: Checkpoint,
    plan: Plan,
    data: Images,
    *,
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Study:
    """Test Statement 1 on a checkpoint.

    Args:
        checkpoint: what `load` gives.
        plan: what is injected and which runs are followed.
        data: held-out real images.
        strict: stop where a check before the study fails.
        progress: called as (stage, done, total).

    Returns:
        The study, with its tables.

    Raises:
        ValueError: the data do not fit or are missing, an estimator is not available, an injected error is more noise than
            the schedule holds, or a check fails under `strict`.
    """
    if data is None:
        raise ValueError("approximate adds known errors to real states: give held-out data")
    started = time.perf_counter()
    checkpoint = checkpoint.to(plan.device, plan.precision)
    checks = checked(checkpoint, data, device=plan.device, strict=strict, progress=progress)
    held_out = split(data, checkpoint)
    injected = _inject(checkpoint, plan, held_out, progress)
    paths: dict[tuple[str, str, str], PathReport] = {}
    models = {"checkpoint": checkpoint.model, "exact": _exact_denoiser(checkpoint, held_out)}
    for solver in plan.solvers:
        for kind, reports in _follow(checkpoint, models, plan, solver, held_out[0], progress).items():
            paths |= {(solver.name, kind, name): report for name, report in reports.items()}
    about = _manifest(checkpoint, plan, time.perf_counter() - started)
    return Study({"preflight": checks.as_dict()} | about | {"data read as": data.about}, injected, paths)


def _inject(
    checkpoint: Checkpoint, plan: Plan, held_out: tuple[Images, Images], progress: Progress
) -> dict[str, ApproximationReport]:
    model = checkpoint.model
    times = torch.unique(model.snap(torch.tensor(plan.times, dtype=torch.float64))).flip(0)
    sigma = model.schedule(times).sigma
    # Where the schedule ends before the largest error, the whole row of errors shrinks to what fits.
    room = (model.schedule(torch.tensor(1.0)).sigma.double() ** 2 - sigma**2).clamp_min(0).sqrt()
    largest = torch.minimum(sigma * max(plan.ratios), 0.95 * room)
    sigma_es = largest[:, None] * torch.tensor(plan.ratios, dtype=torch.float64) / max(plan.ratios)
    estimators = build(checkpoint, plan.protocol(plan.solvers[0]), held_out[0], times)
    x0, cond = on_device(plan.device, held_out[1][: plan.rows])
    spectrum = Spectrum.of(held_out[0].floats)
    reports = {}
    for done, (name, estimator) in enumerate(estimators.items()):
        progress("injecting", done, len(estimators))
        reports[name] = check(x0, estimator, times, sigma_es, cond=cond, seed=plan.seed, name=name, spectrum=spectrum)
    progress("injecting", len(estimators), len(estimators))
    return reports


def _follow(
    checkpoint: Checkpoint,
    models: Mapping[str, Model],
    plan: Plan,
    solver: Solver,
    data: Images,
    progress: Progress,
) -> dict[str, dict[str, PathReport]]:
    """One solver's path reports, by model and estimator."""
    protocol = plan.protocol(solver)
    times = read_times(checkpoint.model, protocol)
    progress(f"{solver.name}, calibrating", 0, 1)
    estimators = build(checkpoint, protocol, data, times)
    x0, cond = on_device(plan.device, data[: plan.rows])
    instruments = {
        name: calibrate(estimator, x0, times, cond=cond, seed=plan.seed, slope_rows=PATH_SLOPE_ROWS)
        for name, estimator in estimators.items()
    }
    progress(f"{solver.name}, calibrating", 1, 1)
    reports = {}
    for kind, model in models.items():
        batches = []
        for start in range(0, plan.samples, protocol.batch):
            progress(f"{solver.name}, {kind} model", start, plan.samples)
            indices = range(start, min(start + protocol.batch, plan.samples))
            classes = labels(checkpoint, indices, plan.device)
            coarse, fine = runs(checkpoint, model, plan, solver, indices, classes)
            own = model is checkpoint.model
            batches.append(follow(coarse, fine, instruments, cond=classes, reuse=own))
        progress(f"{solver.name}, {kind} model", plan.samples, plan.samples)
        reports[kind] = assemble(batches, model.schedule, instruments)
    return reports


def runs(
    checkpoint: Checkpoint,
    model: Model,
    plan: Plan,
    solver: Solver,
    indices: range,
    classes: torch.Tensor | None,
) -> tuple[Iterator[Any], Iterator[Any]]:
    """The solver's own run and a fine one: same initial noise, same classes, same Brownian path.

    Args:
        checkpoint: says the times and the shape of states.
        model: what is sampled.
        plan: says the steps of the fine run, the seed and the device.
        solver: of the coarse run.
        indices: of the samples.
        classes: (len(indices),) theirs, or None.
    """
    grid = solver.grid(checkpoint.model)
    reference = solver.reference()
    assert grid is not None  # `Plan` refuses solvers without times or reference
    assert reference is not None
    fine_grid = refine(checkpoint.model, grid, plan.substeps)
    x = initial_noise(checkpoint.model, checkpoint.shape, indices, plan.seed).to(plan.device)
    coarse_source, fine_source = (generators(indices, seed=plan.seed, stream=SAMPLING) for _ in range(2))
    coarse_grid = grid.double().cpu()
    coarse_noise = refined_noise(coarse_source, coarse_grid, fine_grid.cpu())
    coarse = sample(model, x, grid, update=solver.update(), cond=classes, noise=coarse_noise)
    fine = sample(model, x, fine_grid, update=reference, cond=classes, noise=per_sample_noise(fine_source))
    return coarse, fine


def plan_fingerprint(checkpoint: Checkpoint, plan: Plan, data: Images) -> dict[str, Any]:
    """What a study's numbers depend on, of all its solvers.

    Args:
        checkpoint: what is sampled.
        plan: what is injected and which runs are followed.
        data: held-out real images.
    """
    own = {"times": plan.times, "ratios": plan.ratios, "rows": plan.rows, "substeps": plan.substeps}
    every = [fingerprint(checkpoint, plan.protocol(solver), data) for solver in plan.solvers]
    return (
        every[0]
        | own
        | {"sampler": "-".join(each["sampler"] for each in every), "solver": [each["solver"] for each in every]}
    )


def _manifest(checkpoint: Checkpoint, plan: Plan, seconds: float) -> dict[str, Any]:
    return {
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.hash, "family": checkpoint.card.family},
        "schedule": describe(checkpoint.model.schedule),
        "samplers": [solver.name for solver in plan.solvers],
        "times": list(plan.times),
        "ratios": list(plan.ratios),
        "rows": plan.rows,
        "samples": plan.samples,
        "substeps": plan.substeps,
        "estimators": list(plan.estimators),
        "seed": plan.seed,
        "precision": plan.precision,
        "versions": package_versions(),
        "seconds": round(seconds, 1),
    }


def _exact_denoiser(checkpoint: Checkpoint, held_out: tuple[Images, Images]) -> Model:
    """What a perfect network would say if the held-out images were all the data there is."""
    images = torch.cat([part.floats for part in held_out])
    classes = [part.labels for part in held_out if part.labels is not None]
    return Empirical(images, torch.cat(classes) if classes else None).model(checkpoint.model.schedule)
