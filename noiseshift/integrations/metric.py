"""The noise shift as a torchmetrics metric: update while sampling, compute anywhere, synced across ranks.

metric = NoiseShift(ns.calibrate(estimator, real, times))
for step in ns.sample(model, x, times):
    metric.update(step.x, step.t)
metric.compute()          # (K,) calibrated shift at those times
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.instrument import Array, Calibration, Instrument, Readings, place, read
from noiseshift.estimators.posterior import Estimator
from noiseshift.shift.inference import Ratio
from noiseshift.shift.reading import paired
from noiseshift.shift.report import ShiftReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class NoiseShift(Metric):
    """Calibrated noise shift at each of an instrument's K times. Times that were not calibrated are passed over.

    `compute` gives (K,) float64, NaN where nothing was read or could be; `report` the whole
    `ShiftReport`, with intervals. States are persistent: `state_dict` resumes. Ranks are joined by concatenation.

    Args:
        instrument: what `calibrate` gives, or a bare estimator.
        calibration: of a bare estimator.
        **kwargs: torchmetrics' own, such as sync_on_compute.
    """

    full_state_update = False
    higher_is_better = False
    readings: list[Tensor]

    def __init__(
        self, instrument: Instrument | Estimator, calibration: Calibration | Instrument | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.instrument = paired(instrument, calibration)
        self.add_state("readings", default=[], dist_reduce_fx="cat", persistent=True)

    def update(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> None:
        """Read one batch.

        Args:
            x: states (B, …).
            t: their conditioning time.
            cond: (B,) their classes, or None.
        """
        k = place(self.instrument.times, t)
        if k is None:
            return
        found = read(self.instrument.estimator, x, cond, Step(k, torch.as_tensor(t, dtype=torch.float64), x))
        rows = torch.from_numpy(np.concatenate([found.t, found.log_snr], axis=1))
        self.readings.append(
            torch.cat([torch.full((len(rows), 1), float(k), dtype=rows.dtype), rows], 1).to(self.device)
        )

    def compute(self) -> Tensor:
        columns = self._columns()
        shift = [self._shift(k, column) if len(column) else np.nan for k, column in enumerate(columns)]
        return torch.tensor(np.array(shift))

    def _shift(self, k: int, column: Array) -> float:
        """The shift at the k-th time from readings (N, 2) of t and log-SNR; NaN where it cannot be read."""
        calibration = self.instrument.calibration
        real, slopes = calibration.real.t[:, [k]], calibration.slopes[:, [k]]
        # A single state has no error of its own: taken twice, its interval is the calibration's.
        sampled = column[:, [0]] if len(column) > 1 else column[[0, 0], :1]
        ratio = Ratio.of_difference(sampled, real, slopes)
        return float(ratio.value[0]) if ratio.readable(calibration.times[[k]])[0] else np.nan

    def report(self, name: str = "shift") -> ShiftReport:
        """Everything read so far. Raises ValueError unless each of the times was read for the same number of states."""
        columns = self._columns()
        sizes = {len(column) for column in columns}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError("a report needs every calibrated time of every sample: update at all steps of each run")
        stacked = np.stack(columns, axis=1)
        estimator = self.instrument.estimator
        calibration = self.instrument.calibration
        grid = calibration.real.density.shape[1]
        sampled = Readings(stacked[..., 0], stacked[..., 1], np.full((len(columns), grid), np.nan))
        steps = np.arange(len(columns))
        return ShiftReport(name, estimator.schedule, steps, calibration.times, sampled, calibration)

    def plot(self, val: Any = None, ax: Axes | None = None) -> Any:
        """δ(t) with its band: (figure, axes), as torchmetrics' own `plot`.

        Args:
            val: not used: what is drawn is the report.
            ax: where to draw; a new one by default.
        """
        from noiseshift.analysis.plots import plot_shift

        drawn = plot_shift(self.report(), ax=ax)
        return drawn.figure, drawn

    def _columns(self) -> list[np.ndarray]:
        """(N_k, 2) readings of t and log-SNR for each time, in the order in which they came."""
        parts = self.readings if isinstance(self.readings, list) else [self.readings]
        rows = torch.cat(parts).double().cpu().numpy() if parts else np.empty((0, 3))
        return [rows[rows[:, 0] == k, 1:] for k in range(len(self.instrument.times))]
