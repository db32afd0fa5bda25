"""What every observer keeps: the readings of the states it was shown and the sizes of the predicted noises; its report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.models import Model, Prediction
from noiseshift.diffusion.noise import FITTING, generator, torch_generator
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Array, Calibration, Instrument, Readers, Readings, calibrate, place, read
from noiseshift.estimators.residual import Residual, plain, statistic
from noiseshift.shift.reading import first_rows
from noiseshift.shift.report import ShiftReport

RESIDUAL = "residual"
CONTENT = "-content"


class FinalSamples(NamedTuple):
    """Where the observed runs ended.

    Attributes:
        x: samples (N, …).
        cond: (N,) their conditions as `model` takes them, or None.
        model: the observed network; None where it cannot be called again as it was.
    """

    x: Tensor
    cond: Tensor | None
    model: Model | None


class Recorder:
    """Keeps what estimators read off the states that `record` is given, and the size of every predicted noise.

    Args:
        schedule: of the states.
        estimators: what reads states as they pass, by name: instruments, or bare estimators, which `report` calibrates.
    """

    def __init__(self, schedule: Schedule, estimators: Readers | None = None):
        self.schedule = schedule
        self.estimators = dict(estimators or {})
        self._steps: dict[float, int] = {}
        self._readings: dict[str, dict[float, list[Readings]]] = {name: {} for name in self.estimators}
        self._sizes: dict[float, list[Tensor]] = {}
        self._counts: dict[float, int] = {}
        self.without_model = ""  # why the observed network cannot be called again

    def record(
        self, x: Tensor, t: Tensor | float, prediction: Prediction | None = None, *, cond: Tensor | None = None
    ) -> None:
        """Read one state of a run.

        Args:
            x: (B, …) = alpha x0 + sigma eps of the schedule.
            t: its conditioning time, in [0, 1].
            prediction: the network's, if there is one.
            cond: (B,) the classes, or None.
        """
        time = torch.as_tensor(t, dtype=torch.float64).cpu()
        key = self._key(time)
        if not 0 < key < 1:
            return  # no level to read
        self._steps.setdefault(key, len(self._steps))
        seen = self._counts.get(key, 0)
        self._counts[key] = seen + len(x)
        step = Step(self._steps[key], time, x, prediction, first=seen)
        for name, reader in self.estimators.items():
            if not isinstance(reader, Instrument):
                self._readings[name].setdefault(key, []).append(read(reader, x, cond, step))
            elif rows := reader.rows(seen, len(x)):
                head = first_rows(step, rows)
                classes = None if cond is None else cond[:rows]
                self._readings[name].setdefault(key, []).append(read(reader.estimator, head.x, classes, head))
        own = None if prediction is None else plain(prediction)
        if own is not None:
            self._sizes.setdefault(key, []).append(statistic(own))

    def _key(self, t: Tensor | float) -> float:
        """The recorded time that t is, or t itself where it is a new one."""
        known = np.array([*self._steps])
        k = place(known, t)
        return float(t) if k is None else float(known[k])

    @property
    def times(self) -> Tensor:
        """(K,) the conditioning times that were recorded, falling."""
        return torch.tensor(sorted(self._steps, reverse=True), dtype=torch.float64)

    def final_samples(self) -> FinalSamples | None:
        """The runs' own samples, for observers that see where a run ends."""
        return None

    def model(self) -> Model | None:
        """The observed network as a model of unconditional states, for observers that have it."""
        return None

    def report(
        self,
        real: Tensor | None = None,
        *,
        estimator: str | None = None,
        model: Model | None = None,
        cond: Tensor | None = None,
        seed: int = 0,
    ) -> ShiftReport:
        """The shift of what was recorded.

        An instrument is calibrated, and needs nothing more. A bare estimator is calibrated on `real`; for the residual, half of
        it fits the curve and the other half calibrates. Without `real`, the runs' own samples are re-noised and calibrate: the
        report, named "…-content", says how far states are from the level at which the *same content* would read alike. What is
        wrong with the content itself does not show in it.

        Args:
            real: (N, …) real samples in [-1, 1], held out from training; None takes an instrument's calibration, or the runs' own
                samples.
            estimator: the name of one that read the run, or "residual"; by default the only one, else "residual".
            model: the network whose predictions were recorded, for the residual; the observed one by default.
            cond: (N,) classes of the real samples, or None.
            seed: of the calibration's noise.

        Returns:
            A report.

        Raises:
            ValueError: nothing was recorded, the estimator is not there, there is nothing to calibrate on, or an instrument was
                calibrated at other times.
        """
        name = self._name(estimator)
        reader = self.estimators.get(name)
        if isinstance(reader, Instrument) and real is None:
            return self._report(name, self._read_by(name), reader.calibration.at(self.times.numpy()))
        own = self.final_samples() if real is None else None
        if own is not None:
            real = own.x
            cond = own.cond
            model = model or own.model
        if real is None:
            raise ValueError("there is nothing to calibrate on: pass real samples, held out from training")
        title = name if own is None else name + CONTENT
        if reader is not None:
            bare = reader.estimator if isinstance(reader, Instrument) else reader
            # Estimators read these states without a condition, so they are calibrated without.
            made = calibrate(bare, real, self.times, cond=cond if own is None else None, seed=seed)
            return self._report(title, self._read_by(name), made.calibration)
        if (model := model or self.model()) is None:
            why = f" (it cannot be called as in the run: {self.without_model})" if self.without_model else ""
            raise ValueError(f"the residual estimator is calibrated with the network: pass model={why}")
        # One's own samples are few, and a fit on the rows that calibrate it is taken out again by the calibration.
        half = len(real) // 2 if own is None else 0
        return self._by_residual(title, model, real, cond, half, seed)

    def _name(self, estimator: str | None) -> str:
        """Whose report is made. Raises ValueError where there is none."""
        if not self._steps:
            raise ValueError("nothing was recorded: run the sampler inside the `with` block first")
        if len({self._counts[self._key(t)] for t in self.times}) > 1:
            raise ValueError("the observed runs differ in their times: observe one run, or runs on one grid")
        name = estimator or (next(iter(self.estimators)) if len(self.estimators) == 1 else RESIDUAL)
        if name != RESIDUAL and name not in self.estimators:
            raise ValueError(f"{name} did not read this run: choose from {', '.join([*self.estimators, RESIDUAL])}")
        return name

    def _by_residual(
        self, title: str, model: Model, real: Tensor, cond: Tensor | None, half: int, seed: int
    ) -> ShiftReport:
        """The report of the predictions' sizes: fitted on the first `half` of the real samples (0: on all), calibrated on the
        others."""
        first = slice(0, half or None)
        source = torch_generator(generator(0, seed=seed, stream=FITTING))
        residual = Residual(
            model, real[first], self.times, generator=source, cond=None if cond is None else cond[first]
        )
        rest = None if cond is None else cond[half:]
        made = calibrate(residual, real[half:], self.times, cond=rest, seed=seed)
        sampled = Readings.stack([self._residual(residual, t) for t in self.times])
        return self._report(title, sampled, made.calibration)

    def _read_by(self, name: str) -> Readings:
        """What one reader read, at all times."""
        return Readings.stack([Readings.concatenate(self._readings[name][self._key(t)]) for t in self.times])

    def _report(self, title: str, sampled: Readings, calibration: Calibration) -> ShiftReport:
        return ShiftReport(title, self.schedule, self._indices(), self.times.numpy(), sampled, calibration)

    def _residual(self, residual: Residual, t: Tensor) -> Readings:
        if self._key(t) not in self._sizes:
            raise ValueError(
                f"the residual estimator reads predictions, and none is known at t = {float(t):.3g}: pass them to record(), or "
                "read the run with another estimator"
            )
        known = sum(map(len, self._sizes[self._key(t)]))
        if known < self._counts[self._key(t)]:
            raise ValueError(
                f"the residual estimator reads predictions, which are known of {known} of {self._counts[self._key(t)]} states at "
                f"t = {float(t):.3g}: observe runs whose predictions are all known"
            )
        posterior = residual.posterior(torch.cat(self._sizes[self._key(t)]).cpu(), t)
        log_snr = posterior.expect(self.schedule.log_snr(posterior.times))
        return Readings(posterior.mean.numpy()[:, None], log_snr.numpy()[:, None], posterior.prob.mean(0).numpy()[None])

    def _indices(self) -> Array:
        return np.array([self._steps[self._key(t)] for t in self.times])


def spread(count: int, points: int) -> list[int]:
    """`points` of range(count), evenly, both ends among them.

    Args:
        count: at least 0.
        points: how many are chosen, or all where there are no more.
    """
    return np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int)).tolist() if count else []


def distinct(x: Tensor) -> int:
    """How many rows are states of their own: guidance that doubles a batch repeats it."""
    half = len(x) // 2
    return half if half and len(x) % 2 == 0 and torch.equal(x[:half], x[half:]) else len(x)
