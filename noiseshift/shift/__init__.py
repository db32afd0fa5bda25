"""The measurement: the effective noise level of sampling states, against the conditioning level."""

from noiseshift.shift.final_noise import residual_noise
from noiseshift.shift.inference import RunTest
from noiseshift.shift.parts import PartCalibration, PartReport, calibrate_parts, measure_parts
from noiseshift.shift.reading import BatchReadings, assemble, measure, read_run, runs_of
from noiseshift.shift.report import PairedDifference, ShiftReport
from noiseshift.shift.storage import read_reports, write_reports

__all__ = [
    "BatchReadings",
    "PairedDifference",
    "PartCalibration",
    "PartReport",
    "RunTest",
    "ShiftReport",
    "assemble",
    "calibrate_parts",
    "measure",
    "measure_parts",
    "read_reports",
    "read_run",
    "residual_noise",
    "runs_of",
    "write_reports",
]
