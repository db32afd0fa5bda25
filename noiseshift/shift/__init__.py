"""The measurement: the noise level that sampling states carry, against the one the network is conditioned on."""

from noiseshift.shift.reading import BatchReadings, assemble, measure, read_run, runs_of
from noiseshift.shift.report import RESAMPLES, PairedDifference, ShiftReport, resampled_means
from noiseshift.shift.storage import read_reports, write_reports

__all__ = [
    "RESAMPLES",
    "BatchReadings",
    "PairedDifference",
    "ShiftReport",
    "assemble",
    "measure",
    "read_reports",
    "read_run",
    "resampled_means",
    "runs_of",
    "write_reports",
]
