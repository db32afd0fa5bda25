"""A scheduler of diffusers by its class's name, with the table of the checkpoint that it samples."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from noiseshift.diffusion.families import FLOW
from noiseshift.diffusion.scheduler_steps import name_of
from noiseshift.diffusion.schedules import Discrete, Schedule, VarianceExploding


def configured(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    schedule: Schedule | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """The scheduler of `make`, whose timesteps are not set.

    Args:
        name: the class, such as "EulerDiscreteScheduler".
        options: what its constructor takes; they come before everything else.
        schedule: the checkpoint's, which gives its table.
        config: the scheduler configuration of a diffusers folder, which comes before `schedule`.

    Raises:
        ValueError: in one line, for a name, an option or a value that diffusers does not take, or a scheduler with another table.
    """
    kind = scheduler_class(name)
    options = dict(options or {})
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} takes no option {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    own = _of_config(config, known) if config else _of_schedule(schedule, known, options)
    given = {key: value for key, value in (_UNCLIPPED | own).items() if key in known} | options
    try:
        scheduler = kind.from_config(dict(config), **given) if config else kind(**given)
    except Exception as error:
        raise ValueError(f"{name} does not take these options: {' '.join(str(error).split())[:160]}") from None
    _require_table(scheduler, schedule, options)
    return scheduler


_UNCLIPPED = {"clip_sample": False, "thresholding": False}


_TABLE = {"beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps"}


def scheduler_class(name: str) -> Any:
    """A scheduler class of diffusers. Raises ValueError for a name that it does not have, or that lacks a package."""
    import diffusers

    try:
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if kind is not None:
            inspect.signature(kind.step)
    except ImportError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())[:160]}") from None
    except (AttributeError, TypeError):
        kind = None
    if kind is None:
        close = difflib.get_close_matches(name, [n for n in dir(diffusers) if n.endswith("Scheduler")], n=1)
        hint = f"; did you mean {close[0]}?" if close else "; write for example DDIMScheduler"
        raise ValueError(f"diffusers has no scheduler {name!r}{hint}")
    return kind


def _of_config(config: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """What a folder's scheduler does not say in the words of another class: a flow's states."""
    if "FlowMatch" in str(config.get("_class_name")) and "use_flow_sigmas" in known:
        return {"use_flow_sigmas": True, "prediction_type": FLOW, "flow_shift": config.get("shift", 1.0)}
    return {}


def _of_schedule(schedule: Schedule | None, known: set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(schedule, VarianceExploding) and "sigma_data" in known:
        return {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
    if options.keys() & _TABLE:
        return {}
    if not isinstance(schedule, Discrete) or "trained_betas" not in known:
        return {"beta_start": 1e-4, "beta_end": 0.02}
    table = schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
    own = {"trained_betas": (1 - table / before).tolist(), "num_train_timesteps": len(table)}
    if float(table[-1]) == 0:  # pure noise says nothing of a noise that is predicted
        own |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    return own


def _require_table(scheduler: Any, schedule: Schedule | None, options: Mapping[str, Any]) -> None:
    table = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(schedule, Discrete) or table is None or options.keys() & _TABLE:
        return
    # The last entry of a zero-terminal-SNR table may be a stand-in.
    same = len(table) == len(schedule.alphas_cumprod) and torch.allclose(
        torch.logit(table[:-1].double().clamp_min(1e-12)),
        torch.logit(schedule.alphas_cumprod[:-1].clamp_min(1e-12)),
        atol=0.02,
    )
    if not same:
        raise ValueError(
            f"{name_of(scheduler)} has a table of its own, which is not the checkpoint's: name its betas as options, or take "
            "another scheduler"
        )
