"""Checks of a run's levels from step to step: what a label means, where the state is, where a step lands."""

from __future__ import annotations

import numpy as np
import pandas as pd

from noiseshift.audit.finding import SEEN, Finding, clipped
from noiseshift.audit.levels import Levels, position
from noiseshift.diffusion.families import Flow, last_label

HALVES = {"bfloat16": 2**-8, "float16": 2**-11}
"""Dtypes of half precision, and the largest relative error of rounding to each."""


def apart(levels: Levels) -> Finding | None:
    """A state that is at another level than its label means, by rounding of the label or otherwise."""
    rows = levels.states
    off = (clipped(rows.state_log_snr) - clipped(rows.label_log_snr)).abs()
    if off.isna().all() or off.max() <= SEEN:
        return None
    worst = off.idxmax()
    row = rows.loc[worst]
    size = float(off.max())
    meaning = f"the label {row.label:g} means {row.label_log_snr:.2f}"
    where = f"at step {row.step} the state has log-SNR {row.state_log_snr:.2f} and {meaning}"
    if _integers(rows.label) and _within_rounding(levels, rows):
        return Finding(
            "rounded-labels",
            f"labels are rounded to whole numbers, the states' levels are not: {where}",
            _remedy_rounded(levels),
            size,
        )
    return Finding("label-off", f"label and state are apart: {where}", remedy_apart(levels), size)


def _integers(labels: pd.Series) -> bool:
    return bool((labels == labels.round()).all())


def _within_rounding(levels: Levels, rows: pd.DataFrame) -> bool:
    """Whether every state lies within one label of its own; where the table ends, its last label is the nearest."""
    last = last_label(levels.family, levels.scheduler) or 0
    places = np.array([position(levels.family, levels.scheduler, value) for value in rows.state_log_snr])
    ends = (places <= 1e-6) | (places >= last - 1e-6)
    return bool(((np.abs(places - rows.label) <= 1 + 1e-6) | (ends & rows.label.isin([0, last]))).all())


def _remedy_rounded(levels: Levels) -> str:
    name = next((n for n in _SPACINGS if levels.subject.setting(n)), None)
    if isinstance(levels.family, Flow):
        return "take FlowMatchEulerDiscreteScheduler, whose labels are not rounded, or pass round(sigma * 1000) / 1000 as sigmas"
    if name:
        return f"leave {name} out, or take EulerDiscreteScheduler, whose labels are interpolated"
    return "take EulerDiscreteScheduler, whose labels are interpolated"


_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def remedy_apart(levels: Levels) -> str:
    if levels.subject.setting("interpolation_type") == "log_linear":
        return "set interpolation_type='linear'"
    if "timesteps" in levels.timing and "sigmas" not in levels.timing:
        return "hand over sigmas, not timesteps: the sigmas are shifted and the timesteps stay as they are"
    name = next((n for n in _SPACINGS if levels.subject.setting(n)), None)
    if name:
        return f"leave {name} out: its levels lie where the table has no label"
    return "tell the network the state's own level: sigmas and timesteps that belong together"


def moved(levels: Levels) -> Finding | None:
    """A network that gets another time than the label: by rounding to half precision, or in any other way."""
    rows = levels.states
    off = (clipped(rows.handed_log_snr) - clipped(rows.label_log_snr)).abs()
    by = (rows.handed - rows.label).abs()
    if not (by > 1e-3).any():
        return None
    # Labels near the table's end may move without a change in log-SNR.
    row = rows.loc[(off if off.any() else by).idxmax()]
    what = f"a network that gets its time as {levels.handed_as}" if levels.handed_as else "a cast to half precision"
    half = not levels.handed_as or float(by.max()) <= _rounding(levels)
    return Finding(
        "half-precision" if half else "moved-labels",
        f"{what} has {int((by > 1e-3).sum())} of {len(rows)} labels moved, at most from {row.label:g} to {row.handed:g}",
        "keep the time argument in float32" if half else "hand the network the scheduler's own timesteps, in float32",
        float(off.max()),
    )


def _rounding(levels: Levels) -> float:
    """How far a label can move when the time that was seen is rounded to its dtype: 0 of one that is not a half precision."""
    if levels.handed_as not in HALVES:
        return 0.0
    top = max(float(levels.states.label.abs().max()), float(levels.scheduler.config.num_train_timesteps))
    return HALVES[levels.handed_as] * top


def lands_off(levels: Levels) -> Finding | None:
    """A step whose arithmetic lands elsewhere than the next state is taken to be."""
    rows = levels.frame
    internal = pd.Series([*rows.internal.iloc[1:], True], index=rows.index)
    off = (clipped(rows.reached_log_snr) - clipped(rows.state_log_snr).shift(-1)).mask(internal).abs()
    if off.isna().all() or off.max() <= SEEN:
        return None
    row = rows.loc[off.idxmax()]
    after = rows.loc[off.idxmax() + 1]
    sentence = (
        f"step {row.step} lands at log-SNR {row.reached_log_snr:.2f}, and the network is next conditioned on label "
        f"{after.label:g}, {after.label_log_snr:.2f}"
    )
    return Finding("lands-off", sentence, _remedy_lands(levels), float(off.max()))


def _remedy_lands(levels: Levels) -> str:
    count = int(levels.scheduler.config.num_train_timesteps)
    if not hasattr(levels.scheduler, "sigmas"):
        return (
            f"its stride is {count} // {levels.steps} whatever the labels are: set timestep_spacing='leading' (then see "
            "first-level) or 'trailing' with a step count that divides the training steps"
        )
    return "take another scheduler: this one's steps do not reach the levels that it names"


def duplicated(levels: Levels) -> Finding | None:
    """One label twice in a row: the network cannot tell the two states apart."""
    rows = levels.states
    same = rows.label.diff() == 0
    if not same.any():
        return None
    size = float(rows.state_log_snr.diff().abs()[same].max())
    remedy = "take fewer steps" if levels.steps > len(rows.label.unique()) else "take another spacing of the levels"
    sentence = f"{int(same.sum())} labels come twice in a row, such as {rows.label[same].iloc[0]:g}"
    return Finding("duplicated", sentence, remedy, size)


def not_falling(levels: Levels) -> Finding | None:
    """Noise that rises again within a run."""
    rows = levels.states
    rise = -rows.state_log_snr.diff()
    if rise.isna().all() or rise.max() <= 1e-6:
        return None
    row = rows.loc[rise.idxmax()]
    return Finding(
        "not-falling",
        f"the noise rises again at step {row.step} (label {row.label:g}), by {rise.max():.2f} in log-SNR",
        "hand over sigmas that fall from noise to data",
        float(rise.max()),
    )
