"""Checks of where a run begins and ends, against the table that the network was trained on."""

from __future__ import annotations

import math

import torch

from noiseshift.audit.finding import PURE, SEEN, Finding
from noiseshift.audit.levels import Levels, accepts, table_end
from noiseshift.diffusion.families import Flow, Preconditioned, last_label, outside


def outside_table(levels: Levels) -> Finding | None:
    """Labels that training never used."""
    found = outside(levels.family, levels.scheduler, torch.tensor(levels.states.label.to_numpy()))
    if not len(found):
        return None
    last = last_label(levels.family, levels.scheduler)
    remedy = (
        "set steps_offset=0 or timestep_spacing='trailing'"
        if levels.subject.setting("steps_offset")
        else f"hand over labels in 0 … {last}"
    )
    return Finding(
        "outside-table",
        f"{len(found)} labels lie outside the training table (0 … {last}): {', '.join(f'{v:g}' for v in found[:3].tolist())}",
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
    scheduler = levels.scheduler
    spacing = levels.subject.setting("timestep_spacing")
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
    setting = levels.subject.setting
    count = int(levels.scheduler.config.num_train_timesteps)
    if setting("final_sigmas_type") == "sigma_min":
        return "set final_sigmas_type='zero'"
    if setting("interpolation_type") == "log_linear":
        return "set interpolation_type='linear'"
    if setting("set_alpha_to_one") is False:
        return "set set_alpha_to_one=True"
    if not hasattr(levels.scheduler, "sigmas") and count % levels.steps:
        return f"take a step count that divides {count}, or timestep_spacing='leading'"
    return "take a scheduler that has final_sigmas_type='zero', such as UniPCMultistepScheduler"
