"""Distances between samples and data, with intervals."""

from noiseshift.evaluation.distances import (
    density_coverage,
    frechet_distance,
    inception_score,
    precision_recall,
)
from noiseshift.evaluation.extractors import (
    ClassifierFeatures,
    EfficientNetLite,
    Extractor,
    FidelityFeatures,
    InceptionFeatures,
    ModuleFeatures,
    StateFeatures,
    WaveletPackets,
    distance_name,
    extract,
    kernel_name,
    load_reference,
    score_name,
    seen_by,
)
from noiseshift.evaluation.features import Array, Features, Moments
from noiseshift.evaluation.intervals import Change, coverage_change, kernel_change, score_change, student
from noiseshift.evaluation.jackknifing import ENOUGH, SMALL, Jackknife, jackknife, paired_change
from noiseshift.evaluation.kernel import kernel_distance
from noiseshift.evaluation.table import evaluate, require_enough, require_width, warn_of_no_interval

__all__ = [
    "ENOUGH",
    "SMALL",
    "Array",
    "Change",
    "ClassifierFeatures",
    "EfficientNetLite",
    "Extractor",
    "Features",
    "FidelityFeatures",
    "InceptionFeatures",
    "Jackknife",
    "ModuleFeatures",
    "Moments",
    "StateFeatures",
    "WaveletPackets",
    "coverage_change",
    "density_coverage",
    "distance_name",
    "evaluate",
    "extract",
    "frechet_distance",
    "inception_score",
    "jackknife",
    "kernel_change",
    "kernel_distance",
    "kernel_name",
    "load_reference",
    "paired_change",
    "precision_recall",
    "require_enough",
    "require_width",
    "score_change",
    "score_name",
    "seen_by",
    "student",
    "warn_of_no_interval",
]
