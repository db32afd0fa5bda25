"""The solver's and the network's part of a shift, by two experiments that fail in different ways.

Refining the steps evaluates the measured network; it does not see a fault that the steps take part in. The exact model of
a distribution fitted to the data has no error; it does not see what the fit leaves out. A part is given to the network
only where both experiments find it, with one sign.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from noiseshift.estimators.instrument import Array
from noiseshift.shift.refinement import Refinement
from noiseshift.shift.report import ShiftReport

REFINED = ("solver", "solver_low", "solver_high", "network", "network_low", "network_high")


def shares(report: ShiftReport, refinement: Refinement | None, exact: ShiftReport | None) -> pd.DataFrame:
    """Whose a shift is, as one estimator reads it.

    Args:
        report: of the run.
        refinement: of its first samples, or None where the solver's steps cannot be refined.
        exact: of an exact model through the same solver, calibrated on that model's own data; or None.

    Returns:
        A row per time: estimator, t, total; by refinement solver and network with their intervals, and `reached`; by the
        exact model the same as `exact_solver`, `exact_network`; all NaN where there was no such experiment. `whose`:
        "network" or "solver" where both experiments find that part with one sign, "both", or "open".
    """
    frame = pd.DataFrame(
        {"estimator": report.estimator, "t": report.times, "total": report.table()["shift"].to_numpy()}
    )
    empty = pd.DataFrame(np.nan, index=frame.index, columns=[*REFINED])
    refined = empty if refinement is None else refinement.split(report)
    frame[[*REFINED]] = refined[[*REFINED]].to_numpy()
    frame["reached"] = False if refinement is None else refined.reached.to_numpy()
    other = empty if exact is None else _against(report, exact)
    frame[[f"exact_{name}" for name in REFINED]] = other[[*REFINED]].to_numpy()
    frame["whose"] = _whose(frame)
    return frame


def _against(report: ShiftReport, exact: ShiftReport) -> pd.DataFrame:
    """The exact model's shift, and the run's minus it; the two are calibrated on different data, so nothing cancels."""
    alone = exact.table()
    error = np.hypot(report.standard_error(), exact.standard_error())
    network = report.table()["shift"] - alone["shift"]
    return pd.DataFrame(
        {
            "solver": alone["shift"],
            "solver_low": alone.low,
            "solver_high": alone.high,
            "network": network,
            "network_low": network - 1.96 * error,
            "network_high": network + 1.96 * error,
        }
    )


def _whose(frame: pd.DataFrame) -> Array:
    network = _agreed(frame, "network")
    solver = _agreed(frame, "solver")
    return np.select([network & solver, network, solver], ["both", "network", "solver"], "open")


def _agreed(frame: pd.DataFrame, part: str) -> Array:
    """Whether both experiments find the part, with one sign."""
    signs = [_sign(frame[f"{prefix}{part}_low"], frame[f"{prefix}{part}_high"]) for prefix in ("", "exact_")]
    return (signs[0] == signs[1]) & (signs[0] != 0)


def _sign(low: pd.Series, high: pd.Series) -> Array:
    """1 or -1 where an interval excludes 0, else 0."""
    return np.where(low > 0, 1, np.where(high < 0, -1, 0))
