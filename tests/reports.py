"""A shift report from bare readings, for tests of what is made of reports."""

import numpy as np

import noiseshift as ns
from noiseshift.estimators.instrument import Calibration, Readings


def readings(t, log_snr=lambda t: t):
    """Readings of t (N, K), and of the log-SNR by that function of them."""
    return Readings(t, log_snr(t), np.full((t.shape[1], 5), 0.2))


def report_of(times, sampled, real, *, slope=1.0, content=None, name="network", log_snr=lambda t: t, steps=None):
    """A report of readings.

    Args:
        times: (K,) conditioning times.
        sampled: (N, K) readings of the sampler's states.
        real: (M, K) readings of real states.
        slope: of the calibration, a number or (m, K).
        content: (N, K) readings of final samples, re-noised, or None.
        name: the estimator's.
        log_snr: what the readings of the log-SNR are of those of t.
        steps: (K,) `Step.index` of the states; 0 … K - 1 by default.
    """
    slopes = slope if np.ndim(slope) == 2 else np.full((20, len(times)), slope)
    calibration = Calibration(times, np.linspace(0, 1, 5), readings(real, log_snr), slopes, slopes)
    against = None if content is None else readings(content, log_snr)
    places = np.arange(len(times)) if steps is None else steps
    return ns.ShiftReport(name, ns.Linear(), places, times, readings(sampled, log_snr), calibration, against)


def log_snr_of(t):
    """The log-SNR of a time of the linear schedule."""
    return 2 * np.log(1 / t - 1)
