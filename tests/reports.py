"""A shift report from bare readings, for tests of what is made of reports."""

import numpy as np

import noiseshift as ns
from noiseshift.estimators.instrument import Calibration, Readings


def report_of(times, sampled, real, *, slope=1.0, content=None, name="network"):
    """Readings of sampled and of real states (N, K), those of final samples re-noised, and the calibration's slope."""
    ones = np.ones((20, len(times)))
    calibration = Calibration(times, np.linspace(0, 1, 5), _readings(real), slope * ones, slope * ones)
    against = None if content is None else _readings(content)
    return ns.ShiftReport(name, ns.Linear(), np.arange(len(times)), times, _readings(sampled), calibration, against)


def _readings(t):
    return Readings(t, t, np.full((t.shape[1], 5), 0.2))
