"""What is wrong with a sampler's levels, in words, each with the option that corrects it.

A check looks at one step count's `Levels` and says at most one thing. `findings` merges what is said of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from noiseshift.audit.levels import Levels, accepts, log_snr, position, table_end
from noiseshift.audit.shifting import shifted, shifted_before
from noiseshift.diffusion.families import Flow, Preconditioned, Preserving

SEEN = 0.02
"""Differences in log-SNR below this are not spoken of: SASolver's levels are read to about 0.01."""

PURE = 2 * math.log(1000)
"""Log-SNR beyond which a level counts as pure noise, or data: 0.1 % of the amplitude is the other."""

HALVES = {"bfloat16": 2**-8, "float16": 2**-11}
"""Dtypes of half precision, and the largest relative error of rounding to each."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or a note.

    Attributes:
        name: one word for it, for `--accept` and tables.
        sentence: what was found, with numbers.
        remedy: the option to set, or what else to do.
        size: how large it is, in log-SNR; infinite where a level is missing, NaN of a note.
        steps: the step counts at which it was found.
    """

    name: str
    sentence: str
    remedy: str
    size: float
    steps: tuple[int, ...] = ()

    @property
    def note(self) -> bool:
        """Whether it is no fault of the sampler's, and only to be known."""
        return math.isnan(self.size)


def findings(every: Iterable[Levels]) -> tuple[Finding, ...]:
    """What all checks say, the largest of each name with all step counts it was found at, faults before notes."""
    found: dict[str, list[Finding]] = {}
    for levels in every:
        for check in CHECKS:
            said = check(levels)
            if said is not None:
                found.setdefault(said.name, []).append(replace(said, steps=(levels.steps,)))
    merged = [_merged(alike) for alike in found.values()]
    return tuple(sorted(merged, key=lambda finding: (finding.note, -finding.size if not finding.note else 0.0)))


def _merged(alike: Sequence[Finding]) -> Finding:
    worst = max(alike, key=lambda finding: -math.inf if finding.note else finding.size)
    return replace(worst, steps=tuple(step for finding in alike for step in finding.steps))


def unfollowed(levels: Levels) -> Finding | None:
    """A step that fails: nothing further is known of what it reaches."""
    if not levels.failure:
        return None
    return Finding(
        "fails",
        f"a step cannot be taken: {levels.failure}",
        "set what the message names, or another step count",
        math.inf,
    )


def outside_table(levels: Levels) -> Finding | None:
    """Labels that training never used."""
    if isinstance(levels.family, Preconditioned) or levels.subject.setting("timestep_type") == "continuous":
        return None
    count = int(levels.scheduler.config.num_train_timesteps)
    last = count if isinstance(levels.family, Flow) else count - 1
    labels = levels.states.label
    outside = labels[(labels > last + 1e-3 * count / 1000) | (labels < 0)]
    if outside.empty:
        return None
    remedy = (
        f"set steps_offset={0 if last == count - 1 else 1} or timestep_spacing='trailing'"
        if levels.subject.setting("steps_offset")
        else f"hand over labels in 0 … {last}"
    )
    return Finding(
        "outside-table",
        f"{len(outside)} labels lie outside the training table (0 … {last}): {', '.join(_few(outside))}",
        remedy,
        math.inf,
    )


def first_level(levels: Levels) -> Finding | None:
    """A run from noise whose first conditioning level has less noise than training's last level has."""
    if levels.start is not None or levels.frame.empty:
        return None
    first, last = float(levels.frame.label_log_snr.iloc[0]), table_end(levels.family, levels.scheduler)
    size = first - max(last, -PURE)
    if size <= SEEN:
        return None
    share = 1 / math.sqrt(1 + math.exp(-first))
    sentence = (
        f"the first state is pure noise, and the network is conditioned on label {levels.frame.label.iloc[0]:g}, where "
        f"{100 * share:.1f} % of the amplitude is signal: log-SNR {first:.2f}, where training ends at {max(last, -PURE):.2f}"
    )
    return Finding("first-level", sentence, _remedy_first(levels), size)


def _remedy_first(levels: Levels) -> str:
    scheduler, spacing = levels.scheduler, levels.subject.setting("timestep_spacing")
    if "sigmas" in levels.timing or "timesteps" in levels.timing:
        return "let the custom sigmas or timesteps start at the last level of training"
    if spacing is not None and spacing != "trailing":
        return "set timestep_spacing='trailing'"
    if levels.subject.setting("sigma_max") is not None or accepts(scheduler, "sigma_max"):
        return "set sigma_max to the training's"
    return "take a step count that divides the training steps, or a scheduler with timestep_spacing='trailing'"


def terminal_snr(levels: Levels) -> Finding | None:
    """A training table that does not end at pure noise (Lin et al., arXiv 2305.08891): the network's own, so only a note."""
    if not isinstance(levels.family, Flow | Preconditioned) and levels.start is None:
        last = table_end(levels.family, levels.scheduler)
        share = 1 / math.sqrt(1 + math.exp(-last))
        if share > 1e-3:
            return Finding(
                "terminal-snr",
                f"training's last level still has {100 * share:.1f} % of the amplitude as signal, and the first state has "
                "none: brightness and other large-scale content drift",
                "rescale_betas_zero_snr=True, for a network that was trained so (v_prediction)",
                math.nan,
            )
    return None


def last_level(levels: Levels) -> Finding | None:
    """A run that ends above zero noise."""
    end = levels.end
    if not end > 0:
        return None
    sentence = f"the last step ends at sigma = {end:.2g} of the signal: that much noise stays in the picture"
    return Finding("last-level", sentence, _remedy_last(levels), math.inf)


def _remedy_last(levels: Levels) -> str:
    setting, count = levels.subject.setting, int(levels.scheduler.config.num_train_timesteps)
    if setting("final_sigmas_type") == "sigma_min":
        return "set final_sigmas_type='zero'"
    if setting("interpolation_type") == "log_linear":
        return "set interpolation_type='linear'"
    if setting("set_alpha_to_one") is False:
        return "set set_alpha_to_one=True"
    if not hasattr(levels.scheduler, "sigmas") and count % levels.steps:
        return f"take a step count that divides {count}, or timestep_spacing='leading'"
    return "take a scheduler that has final_sigmas_type='zero', such as UniPCMultistepScheduler"


def apart(levels: Levels) -> Finding | None:
    """A state that is at another level than its label means, by rounding of the label or otherwise."""
    rows = levels.states
    off = (_clipped(rows.state_log_snr) - _clipped(rows.label_log_snr)).abs()
    if off.isna().all() or off.max() <= SEEN:
        return None
    worst = off.idxmax()
    row, size = rows.loc[worst], float(off.max())
    meaning = f"the label {row.label:g} means {row.label_log_snr:.2f}"
    where = f"at step {row.step} the state has log-SNR {row.state_log_snr:.2f} and {meaning}"
    if _integers(rows.label) and _within_rounding(levels, rows):
        return Finding(
            "rounded-labels",
            f"labels are rounded to whole numbers, the states' levels are not: {where}",
            _remedy_rounded(levels),
            size,
        )
    return Finding("label-off", f"label and state are apart: {where}", _remedy_apart(levels), size)


def _clipped(log_snr: pd.Series) -> pd.Series:
    """Levels as far as a network could tell them apart."""
    return log_snr.clip(-PURE, PURE)


def _integers(labels: pd.Series) -> bool:
    return bool((labels == labels.round()).all())


def _within_rounding(levels: Levels, rows: pd.DataFrame) -> bool:
    """Whether every state lies within one label of its own; where the table ends, its last label is the nearest."""
    last = int(levels.scheduler.config.num_train_timesteps) - 1
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


def _remedy_apart(levels: Levels) -> str:
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
    off = (_clipped(rows.handed_log_snr) - _clipped(rows.label_log_snr)).abs()
    by = (rows.handed - rows.label).abs()
    if not (by > 1e-3).any():
        return None
    row = rows.loc[off.idxmax()]
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
    off = (_clipped(rows.reached_log_snr) - _clipped(rows.state_log_snr).shift(-1)).mask(internal).abs()
    if off.isna().all() or off.max() <= SEEN:
        return None
    row, after = rows.loc[off.idxmax()], rows.loc[off.idxmax() + 1]
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


def shifted_twice(levels: Levels) -> Finding | None:
    """A flow's shift that is applied to levels which are shifted already."""
    if not isinstance(levels.family, Flow):
        return None
    baked = shifted_before(levels)
    if baked is not None:
        return _baked(levels, baked)
    once = shifted(levels)
    if once is None:
        return None
    ratio = np.log(once / (1 - once).clip(1e-12)) - np.log(_sigmas(levels) / (1 - _sigmas(levels)).clip(1e-12))
    inside = once < 1 - 1e-6
    size = float(2 * np.abs(ratio[inside]).max()) if inside.any() else 0.0
    if size <= SEEN:
        return None
    factor = getattr(levels.scheduler, "shift", levels.subject.setting("shift"))
    return Finding(
        "shifted-twice",
        f"the shift of {float(factor):g} is applied twice: the smallest sigma was shifted when the scheduler was made and "
        f"is shifted again, to {_sigmas(levels)[-1]:.4g} in place of {once[-1]:.4g}",
        f"hand over sigmas: np.linspace(1, 1 / {levels.steps}, {levels.steps}), which are shifted once",
        size,
    )


def _baked(levels: Levels, factor: float) -> Finding | None:
    """Custom sigmas that hold a shift already."""
    second = (
        float(math.exp(levels.timing["mu"])) if "mu" in levels.timing else float(levels.subject.setting("shift", 1.0))
    )
    size = 2 * abs(math.log(second)) if second > 0 else 0.0
    if size <= SEEN:
        return None
    return Finding(
        "shifted-twice",
        f"the sigmas that were given hold a shift of {factor:.2f} already, and the scheduler shifts them by {second:.2f} more",
        f"hand over even sigmas, np.linspace(1, 1 / {levels.steps}, {levels.steps}), or set the scheduler's shift to 1",
        size,
    )


def _sigmas(levels: Levels) -> np.ndarray:
    return np.asarray(levels.states.state_sigma, dtype=float)


def shift_ignored(levels: Levels) -> Finding | None:
    """Two shifts are set, and one of them is not used."""
    name = next((n for n in ("shift", "flow_shift") if levels.subject.setting(n, 1.0) not in (1.0, None)), None)
    if name is None or "mu" not in levels.timing:
        return None
    return Finding(
        "shift-ignored",
        f"{name}={levels.subject.setting(name):g} is not used: with use_dynamic_shifting=True the shift is exp(mu) = "
        f"{math.exp(levels.timing['mu']):.2f}, by the picture's size",
        f"set use_dynamic_shifting=False for {name}, or leave {name} out",
        math.nan,
    )


def image_start(levels: Levels) -> Finding | None:
    """A run from an image that is noised to another level than the first conditioning level."""
    if levels.start is None or levels.frame.empty:
        return None
    row, held = levels.frame.iloc[0], log_snr(levels.start)
    size = abs(min(max(held, -PURE), PURE) - min(max(row.label_log_snr, -PURE), PURE))
    if size <= SEEN:
        return None
    return Finding(
        "image-start",
        f"the image is noised to log-SNR {held:.2f}, and the network is first conditioned on label {row.label:g}, "
        f"{row.label_log_snr:.2f}",
        _remedy_apart(levels)
        if abs(held - row.state_log_snr) <= SEEN
        else "noise the image at the first state's own level",
        size,
    )


def first_state(levels: Levels) -> Finding | None:
    """A first state, as it was seen, that holds another amount of noise than its conditioning level: a run that is handed
    over or restarted at the wrong place. Texture adds to what is read, so that little noise is not judged."""
    if levels.first_sigma is None or levels.start is not None or levels.frame.empty:
        return None
    row = levels.frame.iloc[0]
    ratio = levels.first_sigma / max(row.state_sigma, 1e-12)
    share = 1 / math.sqrt(1 + math.exp(row.state_log_snr))
    if not (ratio < 0.9 or (ratio > 1.1 and share > 0.3)):
        return None
    return Finding(
        "first-state",
        f"the first state holds noise of sigma = {levels.first_sigma:.3g} by its finest Haar band, and the run starts at label "
        f"{row.label:g}, sigma = {row.state_sigma:.3g}",
        "start where the state's own level is: noise it by the scheduler's add_noise at the first timestep, or set the first "
        "timestep to its level",
        2 * abs(math.log(max(ratio, 1e-6))),
    )


def strength_read(levels: Levels) -> Finding | None:
    """Strength counts steps, not noise: where a run from an image really starts."""
    if levels.start is None or levels.frame.empty:
        return None
    row = levels.frame.iloc[0]
    level = "sigma" if not isinstance(levels.family, Preserving) else "sqrt(1 - abar)"
    return Finding(
        "strength",
        f"{len(levels.states)} of {levels.steps} steps are taken, from label {row.label:g}: {level} = {row.state_sigma:.3g}",
        "strength is a share of the steps, not of the noise: choose it by the level it starts at",
        math.nan,
    )


def fewer_steps(levels: Levels) -> Finding | None:
    """A scheduler that takes another number of steps than it was asked for."""
    taken = len(levels.states)
    if levels.begin or levels.steps in (taken, len(levels.frame)):
        return None
    return Finding(
        "step-count",
        f"{taken} steps are taken where {levels.steps} were asked for",
        "count what runs, not what was asked",
        math.nan,
    )


CHECKS: tuple[Callable[[Levels], Finding | None], ...] = (
    *(unfollowed, outside_table, first_level, last_level, apart, moved, lands_off, duplicated, not_falling),
    *(shifted_twice, image_start, first_state, terminal_snr, shift_ignored, strength_read, fewer_steps),
)


def _few(labels: pd.Series) -> list[str]:
    return [f"{label:g}" for label in labels[:3]]
