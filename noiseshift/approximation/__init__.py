"""Statement 1 of arXiv 2510.12497 under test: δ ≈ (√(σ_t² + σ_e²) − σ_t) / σ̇_t for states that carry an extra error e.

Three comparisons, never one: first order against the exact root of each definition of δ (`roots`), against the shift
that an estimator measures when a known error is injected (`injection.check`), and in a real run, where the error comes
from the solver and need not be white, Gaussian or independent of the state (`path.follow`).
"""

from noiseshift.approximation.injection import ApproximationReport, check
from noiseshift.approximation.path import PathReport, assemble, follow
from noiseshift.approximation.roots import (
    Spectrum,
    error_map,
    exact_shift,
    first_order_limit,
    first_order_shift,
    implied_sigma_e2,
    leading_shift,
)
from noiseshift.diffusion.refining import refine, refined_noise

__all__ = [
    "ApproximationReport",
    "PathReport",
    "Spectrum",
    "assemble",
    "check",
    "error_map",
    "exact_shift",
    "first_order_limit",
    "first_order_shift",
    "follow",
    "implied_sigma_e2",
    "leading_shift",
    "refine",
    "refined_noise",
]
