"""Instruments: an estimator with what it reads on held-out real states whose level is known.

No estimator is read uncalibrated: each has a bias that depends on t, on the data and on its grid's edges. The shift is
the difference between two readings at the same scheduled t, sampled and real, over the slope of the reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.noise import CALIBRATION, generators, normal
from noiseshift.estimators.posterior import Estimator

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

Array = np.ndarray

SLOPES = (0.5, 2.0)
"""Where an estimator can be read: below, it is insensitive to the level; above, it is ill-conditioned."""

SAME_TIME = 1e-6
"""Conditioning times closer than this are one time: float32, in which many loops keep them, rounds by 6e-8."""


DATA, OWN = "held-out data", "re-noised final samples of its own run, not data"
"""What a calibration may be of, in the words that every sentence, column and figure of a shift against it says."""


def readable(slope: Array) -> Array:
    """Whether readings of these calibration slopes mean anything."""
    return (slope >= SLOPES[0]) & (slope <= SLOPES[1])


def place(times: Array, t: Tensor | float) -> int | None:
    """Which of `times` (K,) a conditioning time t is, or None: the one rule by which a time that came from outside is
    recognised. Within a run, states are known by `Step.index`.

    Args:
        times: (K,) conditioning times, in any order.
        t: one time; closer than `SAME_TIME` it is the same.
    """
    distance = np.abs(times - float(t))
    nearest = int(distance.argmin()) if len(distance) else 0
    return nearest if len(distance) and distance[nearest] < SAME_TIME else None


@dataclass(frozen=True)
class Readings:
    """What one estimator read off N states at each of K times.

    Attributes:
        t: (N, K) posterior means.
        log_snr: (N, K) posterior means of the log-SNR.
        density: (K, G) posterior mass on the estimator's grid, averaged over states.
    """

    t: Array
    log_snr: Array
    density: Array

    def __repr__(self) -> str:
        return f"Readings({len(self)} states at {self.t.shape[1]} times)"

    def __len__(self) -> int:
        return len(self.t)

    @classmethod
    def stack(cls, columns: Sequence[Readings]) -> Readings:
        """Readings at several times (each (N, 1)) side by side."""
        return cls(*(np.concatenate(parts, axis=axis) for parts, axis in zip(_fields(columns), (1, 1, 0), strict=True)))

    @classmethod
    def concatenate(cls, batches: Sequence[Readings]) -> Readings:
        """Readings of several batches of states, one after another; densities are averaged with the batch sizes."""
        t, log_snr, density = _fields(batches)
        share = np.array([len(batch) for batch in batches]) / sum(map(len, batches))
        return cls(np.concatenate(t), np.concatenate(log_snr), np.tensordot(share, np.stack(density), 1))


def _fields(parts: Sequence[Readings]) -> tuple[list[Array], list[Array], list[Array]]:
    return [p.t for p in parts], [p.log_snr for p in parts], [p.density for p in parts]


@dataclass(frozen=True)
class Calibration:
    """Readings on real states at each time, and how far a reading moves when the level does.

    Attributes:
        times: (K,) conditioning times, falling as a sampler passes them.
        grid: (G,) the times of the estimator's posterior.
        real: Readings of n real states at their true level.
        slopes: (m, K) for m of them, the change of the reading over the change of the level, in t.
        slopes_log_snr: The same in log-SNR.
        baseline: What the states are in place of which sampling states are read: `DATA` or `OWN`.
    """

    times: Array
    grid: Array
    real: Readings
    slopes: Array
    slopes_log_snr: Array
    baseline: str = DATA

    def __repr__(self) -> str:
        return f"Calibration({len(self.real)} {'real' if self.baseline == DATA else 'own'} states at {len(self.times)} times)"

    @property
    def bias(self) -> Array:
        """(K,) mean reading minus true level."""
        return self.real.t.mean(0) - self.times

    @property
    def spread(self) -> Array:
        """(K,) standard deviation of a single state's reading."""
        return self.real.t.std(0, ddof=1)

    @property
    def slope(self) -> Array:
        """(K,) d E[reading] / dt: 1 is faithful, 0 is insensitive; outside 0.5 … 2 nothing should be read."""
        return self.slopes.mean(0)

    @property
    def readable(self) -> Array:
        """(K,) whether the slope lies within 0.5 … 2."""
        return readable(self.slope)

    @property
    def slope_log_snr(self) -> Array:
        """(K,) the same in log-SNR."""
        return self.slopes_log_snr.mean(0)

    def at(self, times: Array) -> Calibration:
        """The part of it at some of its times (J,), in their order. Raises ValueError for a time that is not among them."""
        found = [place(self.times, t) for t in times]
        places = np.array([k for k in found if k is not None], dtype=int)
        if len(places) < len(found):
            missing = float(times[found.index(None)])
            raise ValueError(
                f"the instrument is not calibrated at t = {missing:.4f}: calibrate it at the times that are read"
            )
        real = Readings(self.real.t[:, places], self.real.log_snr[:, places], self.real.density[places])
        slopes, slopes_log_snr = self.slopes[:, places], self.slopes_log_snr[:, places]
        return Calibration(self.times[places], self.grid, real, slopes, slopes_log_snr, self.baseline)


@dataclass(frozen=True)
class Instrument:
    """An estimator, calibrated: what every reader of states takes, alone or several by name.

    Attributes:
        estimator: Reads a posterior over t off states.
        calibration: Its readings on real states, at the times at which it is read.
        limit: It reads only samples 0 … limit - 1 of a run; None reads all.
    """

    estimator: Estimator
    calibration: Calibration
    limit: int | None = None

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f", up to {self.limit} samples"
        return f"Instrument({type(self.estimator).__name__}, {self.calibration!r}{limit})"

    @property
    def times(self) -> Array:
        """(K,) conditioning times at which it is calibrated."""
        return self.calibration.times

    @property
    def bias(self) -> Array:
        """(K,) mean reading of real states minus their true level."""
        return self.calibration.bias

    @property
    def spread(self) -> Array:
        """(K,) standard deviation of a single state's reading."""
        return self.calibration.spread

    @property
    def slope(self) -> Array:
        """(K,) d E[reading] / dt."""
        return self.calibration.slope

    def rows(self, start: int, size: int) -> int:
        """How many of the samples start … start + size - 1 it reads: the first ones.

        Args:
            start: the index of a batch's first sample within the run.
            size: how many samples the batch has.
        """
        return size if self.limit is None else min(size, max(0, self.limit - start))


Instruments = Mapping[str, Instrument]
"""Instruments by name, calibrated at the same times."""

Readers = Mapping[str, "Estimator | Instrument"]
"""What reads states whose times are not known beforehand: estimators, which are calibrated afterwards, or instruments."""


def common_times(instruments: Instruments) -> Array:
    """(K,) the times of all. Raises ValueError when there is none, or they were calibrated at different times."""
    if not instruments:
        raise ValueError("there is no instrument to read with: calibrate at least one estimator")
    first, *rest = (each.times for each in instruments.values())
    if any(len(times) != len(first) or not np.allclose(times, first, rtol=0, atol=SAME_TIME) for times in rest):
        raise ValueError("instruments that read one run together must be calibrated at the same times")
    return first


@torch.no_grad()
def read(estimator: Estimator, x: Tensor, cond: Tensor | None, step: Step) -> Readings:
    """One estimator's readings (N, 1) of the states x (N, …) of a step. Raises ValueError when a reading is not finite.

    Args:
        estimator: any.
        x: states (N, …).
        cond: (N,) their classes, or None.
        step: theirs, with the conditioning time and the prediction where there is one.
    """
    posterior = estimator(x, cond, step=step)
    log_snr = estimator.schedule.log_snr(posterior.times.double().cpu())
    mean = posterior.mean.double().cpu()
    if mean.shape != x.shape[:1]:
        raise ValueError(
            f"an estimator read {tuple(mean.shape)} levels off {len(x)} states: it must read one per state"
        )
    if not bool(torch.isfinite(mean).all()):
        raise ValueError(
            f"an estimator returned NaN at t = {float(step.t):.4f}: are the states finite and of its shape?"
        )
    return Readings(
        mean.numpy()[:, None],
        posterior.expect(log_snr.to(posterior.prob)).double().cpu().numpy()[:, None],
        posterior.prob.mean(0).double().cpu().numpy()[None],
    )


def forward_noise(
    data: Tensor, cond: Tensor | None, estimator: Estimator, *, level: Tensor, t_cond: Tensor, index: int, eps: Tensor
) -> Readings:
    """Readings of real states noised to one level, in batches of 256.

    Args:
        data: (N, …) real samples.
        cond: (N,) their classes, or None.
        estimator: what reads them.
        level: () the time to whose level they are noised.
        t_cond: () the conditioning time that the estimator is given.
        index: `Step.index` of the states.
        eps: (N, …) the noise.

    Returns:
        (N, 1) readings.
    """
    from noiseshift.diffusion.samplers import Step

    schedule = estimator.schedule
    parts = []
    for i in range(0, len(data), 256):
        rows = data[i : i + 256]
        x = schedule(level.double()).mix(rows, eps[i : i + 256])
        parts.append(read(estimator, x, None if cond is None else cond[i : i + 256], Step(index, t_cond, x, first=i)))
    return Readings.concatenate(parts)


def calibrate(
    estimator: Estimator,
    data: Tensor,
    times: Tensor,
    *,
    cond: Tensor | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    slope_rows: int = 128,
    limit: int | None = None,
    stream: int = CALIBRATION,
) -> Instrument:
    """Read an estimator on held-out real data at known levels: what makes it an instrument.

    The slope is a central difference with common noise, a step of min(t, 1 - t)/8 to each side.

    Args:
        estimator: What is calibrated.
        data: (N, …) real samples, held out from training; at least 2.
        times: (K,) conditioning times at which runs will be read, strictly between 0 and 1.
        cond: (N,) their classes, or None.
        seed: Each row draws its noise from a generator of its own, of this seed.
        generator: Draws the seed in place of `seed`.
        slope_rows: How many of the rows give the slope.
        limit: How many samples of a run the instrument reads; None reads all.
        stream: Keeps this noise apart from a run's other noise.

    Returns:
        The instrument, to be passed to `measure`.

    Raises:
        ValueError: Fewer than two rows, or times that are not strictly between 0 and 1.
    """
    if len(data) < 2:
        raise ValueError("calibration needs at least two held-out real samples")
    if not bool(((times > 0) & (times < 1)).all()):
        raise ValueError("calibrate strictly between t = 0 and t = 1: at the ends there is no level to read")
    if generator is not None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    sources = generators(range(len(data)), seed=seed, stream=stream)
    head = slice(0, min(slope_rows, len(data)))
    some = None if cond is None else cond[head]
    columns, slopes = [], []
    for k, t in enumerate(times.double().cpu()):
        eps = normal(sources, data.shape[1:])
        columns.append(forward_noise(data, cond, estimator, level=t, t_cond=t, index=k, eps=eps))
        slopes.append(_slopes(data[head], some, estimator, t, k, eps[head]))
    calibration = Calibration(
        # Copies: what the caller does with its tensor afterwards must not change a calibration.
        times.double().cpu().numpy().copy(),
        estimator.times.double().cpu().numpy().copy(),
        Readings.stack(columns),
        np.concatenate([slope for slope, _ in slopes], axis=1),
        np.concatenate([slope for _, slope in slopes], axis=1),
    )
    return Instrument(estimator, calibration, limit)


def slope_reach(t: Tensor) -> Tensor:
    """How far to each side of t the level is moved to find a slope."""
    return torch.minimum(t, 1 - t).clamp_min(1e-3) / 8


def _slopes(
    data: Tensor, cond: Tensor | None, estimator: Estimator, t: Tensor, index: int, eps: Tensor
) -> tuple[Array, Array]:
    """(m, 1) change of each row's reading over the change of its level about t: in t, and in log-SNR."""
    reach = slope_reach(t)
    low, high = (
        forward_noise(data, cond, estimator, level=s, t_cond=t, index=index, eps=eps) for s in (t - reach, t + reach)
    )
    span = float(estimator.schedule.log_snr(t + reach) - estimator.schedule.log_snr(t - reach))
    return (high.t - low.t) / (2 * float(reach)), (high.log_snr - low.log_snr) / span
