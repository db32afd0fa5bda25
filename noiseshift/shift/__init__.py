"""The measurement: the noise level that sampling states carry, against the one the network is conditioned on."""

from noiseshift.shift.report import (
    RESAMPLES,
    SLOPES,
    BatchReadings,
    PairedDifference,
    ShiftReport,
    assemble,
    measure,
    read_reports,
    read_run,
    readable,
    resampled_means,
    runs_of,
    write_reports,
)

__all__ = [
    "RESAMPLES",
    "SLOPES",
    "BatchReadings",
    "PairedDifference",
    "ShiftReport",
    "assemble",
    "measure",
    "read_reports",
    "read_run",
    "readable",
    "resampled_means",
    "runs_of",
    "write_reports",
]
