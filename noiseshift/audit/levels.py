"""The levels of one run: a row a call of the network.

Four levels meet at a call. The *label* is what the scheduler tells the network; *handed* is the label after a cast to half
precision; both mean what the training table says. The *state* level is what the scheduler's arithmetic takes its state to
have. *Reached* is where the step lands, from a state at the state level and a prediction without error.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.audit.subject import Subject
from noiseshift.diffusion.families import (
    Family,
    Flow,
    Pair,
    Preserving,
    family_of,
    last_label,
    require_signature,
    trained_on,
)
from noiseshift.diffusion.rehearsal import rehearse
from noiseshift.diffusion.schedulers import CLEAN, Scheduled

Precision = Literal["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CUSTOM = {"sigmas", "timesteps"}
WIDTH = 2**15
FINITE = 40.0
"""Log-SNR beyond ± this is data or pure noise: an amplitude of 2e-9."""


class Followed(Scheduled):
    """A scheduler that is looked at and not refused for what it does; `reached` is empty where a step fails.

    Args:
        scheduler: it is copied, never changed.
        steps: what its `set_timesteps` is given.
        timing: what a pipeline also hands to `set_timesteps`.
    """

    def __init__(self, scheduler: Any, steps: int, timing: Mapping[str, Any]):
        self.steps = steps
        self.timing = dict(timing)
        require_signature(scheduler)
        self.scheduler = scheduler
        self.scheduler = self._fresh()
        self.family = self._family()
        self.end = self._checked()

    def _family(self) -> Family:
        """How it counts; custom timesteps may part from the sigmas by which a flow is known."""
        try:
            return family_of(self.scheduler)
        except ValueError:
            if not CUSTOM & self.timing.keys():
                raise
        plain = copy.deepcopy(self.scheduler)
        plain.set_timesteps(self.steps, **{key: value for key, value in self.timing.items() if key not in CUSTOM})
        return family_of(plain)

    def _checked(self) -> Pair:
        self.failure = ""
        self.reached = []
        try:
            self.reached = rehearse(self, WIDTH)
        except ValueError as error:
            self.failure = str(error).split("as it is set: ")[-1]
        return self.reached[-1] if self.reached else (math.nan, math.nan)


@dataclass(frozen=True)
class Levels:
    """One step count's rows, and what they were made with.

    Attributes:
        subject: the scheduler and its pipeline.
        steps: the step count that `set_timesteps` was given.
        timing: what else it was given.
        scheduler: the scheduler with its timesteps set.
        family: how it counts.
        begin: the first call, after 0 where a run starts from an image.
        start: (alpha, sigma) of the first state as the scheduler noises an image; None for a run from noise.
        frame: a row a call; see `Audit.table`.
        failure: why a step could not be taken, or empty.
        handed_as: the dtype of the time that a network was seen to get; empty where none was seen.
        first_sigma: of the noise in the first state, read off it; None where it was not seen.
    """

    subject: Subject
    steps: int
    timing: Mapping[str, Any]
    scheduler: Any
    family: Family
    begin: int
    start: Pair | None
    frame: pd.DataFrame
    failure: str
    handed_as: str = ""
    first_sigma: float | None = None

    def seen(self, handed_as: str, first_sigma: float | None) -> Levels:
        """The same, with what an observer saw.

        Args:
            handed_as: the dtype in which the network got its times.
            first_sigma: the noise of the first state, by its finest Haar band; None where it could not be read.
        """
        return replace(self, handed_as=handed_as, first_sigma=first_sigma)

    @property
    def states(self) -> pd.DataFrame:
        """The rows without evaluations inside a step."""
        return self.frame[~self.frame.internal]

    @property
    def end(self) -> float:
        """Noise over signal of the final sample; 0 is data, NaN is not known."""
        landed = float(self.frame.reached_log_snr.iloc[-1])
        return 0.0 if landed >= FINITE else math.exp(-landed / 2)


def levels(
    subject: Subject, steps: int, timing: Mapping[str, Any], strength: float | None, dtype: Precision | None
) -> Levels:
    """The levels of a run of `steps`.

    Args:
        subject: what runs.
        steps: the step count.
        timing: what else `set_timesteps` is given.
        strength: how much of the run an image-to-image pipeline takes, in (0, 1]; None starts from noise.
        dtype: what the label is cast to before the network gets it.

    Raises:
        ValueError: in one line, for a scheduler whose levels are not known.
    """
    run = Followed(subject.scheduler, steps, timing)
    begin = 0 if strength is None else begins(run.scheduler, steps, strength)
    start = None if strength is None else _noised(run, begin)
    raw = run.scheduler.timesteps.double().cpu()
    handed = raw if dtype is None else raw.to(DTYPES[dtype]).double()
    frame = rows(run, handed).iloc[begin:].reset_index(drop=True)
    frame.insert(0, "steps", steps)
    return Levels(subject, steps, timing, run.scheduler, run.family, begin, start, frame, run.failure)


def begins(scheduler: Any, steps: int, strength: float) -> int:
    """The place among its timesteps where an image-to-image pipeline starts. Raises ValueError where nothing is left to do.

    Args:
        scheduler: with its timesteps set.
        steps: what it was set to.
        strength: in (0, 1]; 1 starts at the first timestep.
    """
    # Pipelines of flows round the steps that are skipped, others those that are taken.
    taken = steps * strength if hasattr(scheduler, "scale_noise") else int(steps * strength)
    skipped = int(max(steps - min(taken, steps), 0))
    place = skipped * int(getattr(scheduler, "order", 1))
    if place >= len(scheduler.timesteps):
        raise ValueError(f"strength {strength:g} of {steps} steps takes no step: raise the strength or take more steps")
    return place


def _noised(run: Followed, begin: int) -> Pair | None:
    """(alpha, sigma) that the scheduler gives to an image, as a pipeline asks for it; None where it has no such method."""
    scheduler = copy.deepcopy(run._fresh())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    x0, eps = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[1.0, -1.0]]).double()
    label = scheduler.timesteps[begin : begin + 1]
    if hasattr(scheduler, "scale_noise"):
        state = scheduler.scale_noise(x0, label, eps)
    elif hasattr(scheduler, "add_noise"):
        state = scheduler.add_noise(x0, eps, label)
    else:
        return None
    return float((state * x0).mean()), float((state * eps).mean())


def rows(run: Followed, handed: Tensor) -> pd.DataFrame:
    """A row a call, for labels that the network gets as `handed` (n,).

    Args:
        run: the scheduler, as it was followed.
        handed: the labels that the network gets, one per timestep.
    """
    scheduler = run.scheduler
    raw = scheduler.timesteps.double().cpu()
    order = run.internal()
    frame = pd.DataFrame({"step": np.arange(len(raw)), "internal": order, "label": raw, "handed": handed})
    frame["label_log_snr"] = meant(run.family, scheduler, raw)
    frame["handed_log_snr"] = meant(run.family, scheduler, handed)
    frame["state_log_snr"] = _states(run)
    frame["reached_log_snr"] = [_landed(pair) for pair in run.reached] or math.nan
    for name in ("label", "handed", "state", "reached"):
        frame[f"{name}_sigma"] = [own_sigma(run.family, value) for value in frame[f"{name}_log_snr"]]
    following = pd.Series([*order[1:], False])  # a trial state inside a step is no level that was to be reached
    for unit in ("log_snr", "sigma"):
        frame[f"off_{unit}"] = frame[f"state_{unit}"] - frame[f"handed_{unit}"]
        landed = frame[f"reached_{unit}"] - frame[f"handed_{unit}"].shift(-1)
        frame[f"lands_off_{unit}"] = landed.mask(following)
    return frame


def _states(run: Followed) -> list[float] | float:
    """The log-SNR that the arithmetic takes each state to have; NaN where a label lies outside its table."""
    try:
        return [log_snr(pair) for pair in run.levels()]
    except IndexError:
        return math.nan


def meant(family: Family, scheduler: Any, labels: Tensor) -> list[float]:
    """The log-SNR that labels mean in the training table, whatever labels they are.

    Args:
        family: of the scheduler.
        scheduler: whose table it is.
        labels: (n,) float64, also between whole numbers.
    """
    other = copy.copy(scheduler)
    other.timesteps = labels
    return [clipped(value) for value in family.labelled(other).tolist()]


def log_snr(pair: Pair) -> float:
    """2 log(alpha / sigma), within ± `FINITE`."""
    alpha, sigma = pair
    return clipped(2 * (math.log(max(alpha, 1e-30)) - math.log(max(sigma, 1e-30))))


def _landed(pair: Pair) -> float:
    """The log-SNR of a landing: noise that rounding leaves is none."""
    return FINITE if pair[1] <= CLEAN * pair[0] else log_snr(pair)


def clipped(value: float) -> float:
    return min(max(value, -FINITE), FINITE)


def own_sigma(family: Family, value: float) -> float:
    """The sigma of a log-SNR in a family's own scaling: alpha² + sigma² = 1, alpha = 1, or alpha + sigma = 1 of a flow.

    Args:
        family: of the scheduler.
        value: a log-SNR.
    """
    ratio = math.exp(-value / 2)
    if isinstance(family, Preserving):
        return ratio / math.hypot(1, ratio)
    return ratio / (1 + ratio) if isinstance(family, Flow) else ratio


def table_end(family: Family, scheduler: Any) -> float:
    """The log-SNR of the training's last level.

    Args:
        family: of the scheduler.
        scheduler: whose table it is.
    """
    last = last_label(family, scheduler)
    if last is not None:
        return meant(family, scheduler, torch.tensor([float(last)], dtype=torch.float64))[0]
    largest = scheduler.config.get("sigma_max")
    return -2 * math.log(largest) if largest else clipped(float(torch.logit(scheduler.alphas_cumprod[-1].double())))


def position(family: Family, scheduler: Any, value: float) -> float:
    """The label, not rounded, whose level has a log-SNR: the inverse of what a label means.

    Args:
        family: of the scheduler.
        scheduler: whose table it is.
        value: a log-SNR; one outside the table is put at its end.
    """
    count = trained_on(family, scheduler)
    if count is None:
        return -value / 8
    if isinstance(family, Flow):
        return own_sigma(family, value) * count
    table = np.array(meant(family, scheduler, torch.arange(count).double()))
    return float(np.interp(-value, -table, np.arange(count)))


def accepts(scheduler: Any, option: str) -> bool:
    """Whether the scheduler's constructor takes an option.

    Args:
        scheduler: any.
        option: its name.
    """
    return option in inspect.signature(type(scheduler).__init__).parameters
