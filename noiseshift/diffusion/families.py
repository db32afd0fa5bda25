"""What kind of scheduler a diffusers scheduler is: how it scales its states, what its labels mean, what it takes as a prediction.

Four families, each with states alpha x0 + sigma eps: variance preserving (DDPM, DDIM, DPM++, UniPC, …), variance exploding
(Euler, Heun, LMS, KDPM2), flow (FlowMatch*, and others set to flow sigmas) and EDM's preconditioned ones. `family_of` tells
them apart once, by signature, configuration and attributes.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from noiseshift.diffusion.schedules import Discrete

FLOW = "flow_prediction"
"""What diffusers calls the velocity eps - x0 of a flow."""

Pair = tuple[float, float]
"""(alpha, sigma) of a state, in the scheduler's own scaling."""


class Family(ABC):
    """How schedulers of one kind count.

    Args:
        kind: what the network predicts: epsilon, sample, v_prediction or flow_prediction.
    """

    def __init__(self, kind: str):
        self.kind = kind

    @abstractmethod
    def states(self, scheduler: Any) -> list[Pair]:
        """The level that the scheduler's own arithmetic takes each state to have, one per timestep."""

    @abstractmethod
    def labelled(self, scheduler: Any) -> Tensor:
        """(n,) float64 log-SNR of each timestep's label: the conditioning level, in the table that the network was trained on."""

    def answer(self, x0: Tensor, eps: Tensor, level: Pair, own: Pair) -> Tensor:
        """What the scheduler wants to be given for a prediction (x0, eps) made at `level`, of a state it takes to be at `own`.

        Args:
            x0: (B, …) predicted data.
            eps: (B, …) predicted noise.
            level: (alpha, sigma) of the conditioning level.
            own: (alpha, sigma) that the scheduler takes the state to have.

        Returns:
            (B, …) in the form that its `step` takes.
        """
        if self.kind == "epsilon":
            return eps
        if self.kind == "sample":
            return x0
        if self.kind == FLOW:
            return eps - x0
        alpha, sigma = unit(level)
        return alpha * eps - sigma * x0

    def read(self, output: Tensor, x: Tensor, level: Pair) -> tuple[Tensor, Tensor]:
        """(x0, eps) of a network's output for x = alpha x0 + sigma eps at its conditioning level: the inverse of `answer`.

        Args:
            output: (B, …) what the network answered.
            x: (B, …) the state.
            level: (alpha, sigma) of its conditioning level.

        Returns:
            (x0, eps), each (B, …).
        """
        alpha, sigma = level
        if self.kind == "epsilon":
            return (x - sigma * output) / max(alpha, 1e-10), output
        if self.kind == "sample":
            return output, (x - alpha * output) / max(sigma, 1e-10)
        if self.kind == FLOW:
            return (x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma)
        norm = math.hypot(alpha, sigma)
        return (alpha * x / norm - sigma * output) / norm, (sigma * x / norm + alpha * output) / norm

    def scaled(self, level: Pair) -> Pair:
        """(alpha, sigma) of a level in the family's own scaling.

        Args:
            level: (alpha, sigma) in any; alpha above 0.
        """
        return 1.0, level[1] / level[0]


class Preserving(Family):
    """States sqrt(abar) x0 + sqrt(1 - abar) eps."""

    def states(self, scheduler: Any) -> list[Pair]:
        if hasattr(scheduler, "sigmas"):
            return [unit((1.0, float(sigma))) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]
        table = scheduler.alphas_cumprod.double()
        picked = [float(table[int(label)]) for label in scheduler.timesteps]
        return [(a**0.5, (1 - a) ** 0.5) for a in picked]

    def labelled(self, scheduler: Any) -> Tensor:
        return in_table(scheduler)

    def scaled(self, level: Pair) -> Pair:
        return unit(level)


class Exploding(Family):
    """States x0 + sigma eps, which the scheduler scales to variance preserving ones for the network."""

    def states(self, scheduler: Any) -> list[Pair]:
        count = len(scheduler.timesteps)
        sigmas = [float(sigma) for sigma in scheduler.sigmas[:count]]
        if hasattr(scheduler, "sigmas_interpol"):  # KDPM2 evaluates at midpoints of its own
            first = 0 if hasattr(scheduler, "sigmas_up") else 1
            middle = [float(sigma) for sigma in scheduler.sigmas_interpol[first:count:2]]
            sigmas[1::2] = middle[: count // 2]
        return [(1.0, sigma) for sigma in sigmas]

    def labelled(self, scheduler: Any) -> Tensor:
        if labels_are_logarithms(self, scheduler):
            return -8 * scheduler.timesteps.double().cpu()
        return in_table(scheduler)


class Flow(Family):
    """States (1 - sigma) x0 + sigma eps, labels sigma times the number of training steps."""

    def states(self, scheduler: Any) -> list[Pair]:
        return [(1 - float(sigma), float(sigma)) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]

    def labelled(self, scheduler: Any) -> Tensor:
        sigma = scheduler.timesteps.double().cpu() / scheduler.config.num_train_timesteps
        return 2 * ((1 - sigma).clamp_min(1e-30).log() - sigma.clamp_min(1e-30).log())

    def scaled(self, level: Pair) -> Pair:
        total = sum(level)
        return level[0] / total, level[1] / total


class Preconditioned(Family):
    """EDM's: states x0 + sigma eps, labels ¼ log sigma, a raw network F with D = c_skip x + c_out F (2206.00364, eq. 7).

    Args:
        kind: epsilon, or v_prediction, where diffusers has c_out < 0.
        data: sigma_data.
    """

    def __init__(self, kind: str, data: float):
        super().__init__(kind)
        self.data = data

    def states(self, scheduler: Any) -> list[Pair]:
        return [(1.0, float(sigma)) for sigma in scheduler.sigmas[: len(scheduler.timesteps)]]

    def labelled(self, scheduler: Any) -> Tensor:
        return -8 * scheduler.timesteps.double().cpu()

    def answer(self, x0: Tensor, eps: Tensor, level: Pair, own: Pair) -> Tensor:
        skip, out = self._weights(own[1])
        return (x0 - skip * (x0 + own[1] * eps)) / out

    def read(self, output: Tensor, x: Tensor, level: Pair) -> tuple[Tensor, Tensor]:
        alpha, sigma = level
        state = x / alpha
        skip, out = self._weights(sigma / alpha)
        x0 = skip * state + out * output
        return x0, (x - alpha * x0) / sigma

    def _weights(self, sigma: float) -> Pair:
        total = math.hypot(sigma, self.data)
        sign = -1 if self.kind == "v_prediction" else 1
        return (self.data / total) ** 2, sign * sigma * self.data / total


class Consistency(Preconditioned):
    """Consistency models' (Song et al., arXiv 2303.01469, appendix C): states x0 + sigma eps, labels 250 log sigma, and weights
    that make the network's answer the state itself at the least noise.

    Args:
        data: sigma_data.
        least: sigma_min.
    """

    def __init__(self, data: float, least: float):
        super().__init__("epsilon", data)
        self.least = least

    def labelled(self, scheduler: Any) -> Tensor:
        return -2 * scheduler.timesteps.double().cpu() / CONSISTENCY_SCALE

    def _weights(self, sigma: float) -> Pair:
        above = sigma - self.least
        return self.data**2 / (above**2 + self.data**2), above * self.data / math.hypot(sigma, self.data)


CONSISTENCY_SCALE = 250.0
"""Labels of a consistency model over log sigma."""


def unit(level: Pair) -> Pair:
    """A level scaled to alpha² + sigma² = 1."""
    norm = math.hypot(*level)
    return level[0] / norm, level[1] / norm


def pair_of(log_snr: float) -> Pair:
    """The variance preserving (alpha, sigma) of a log-SNR."""
    return (1 / (1 + math.exp(min(-log_snr, 700)))) ** 0.5, (1 / (1 + math.exp(min(log_snr, 700)))) ** 0.5


def in_table(scheduler: Any) -> Tensor:
    """(n,) float64 log-SNR of the labels in the scheduler's training table; linear between its steps."""
    table = Discrete(scheduler.alphas_cumprod)
    position = scheduler.timesteps.double().cpu().clamp(0, len(table.times) - 1)
    return table.log_snr((position + 1) / len(table.times))


def trained_on(family: Family, scheduler: Any) -> int | None:
    """How many steps the training's table has; None where labels are no places in a table.

    Args:
        family: of the scheduler.
        scheduler: whose training it is.
    """
    if isinstance(family, Preconditioned) or labels_are_logarithms(family, scheduler):
        return None
    # trained_betas may be another number than num_train_timesteps, which only spaces the labels.
    return int(scheduler.config.num_train_timesteps) if isinstance(family, Flow) else len(scheduler.alphas_cumprod)


def last_label(family: Family, scheduler: Any) -> int | None:
    """The largest label that training used; None where labels are no places in a table.

    Args:
        family: of the scheduler.
        scheduler: whose training it is.
    """
    count = trained_on(family, scheduler)
    return count if count is None or isinstance(family, Flow) else count - 1


def outside(family: Family, scheduler: Any, labels: Tensor) -> Tensor:
    """The labels that training never used.

    Args:
        family: of the scheduler.
        scheduler: whose training it is.
        labels: (n,) float64.
    """
    last = last_label(family, scheduler)
    if last is None:
        return labels[:0]
    return labels[(labels > last + ROUNDING * last) | (labels < 0)]


ROUNDING = 1e-6
"""How far a label of float32 may lie beyond the last one, as a share of it."""


def labels_are_logarithms(family: Family, scheduler: Any) -> bool:
    """Whether labels are ¼ log sigma, as EDM's are.

    Args:
        family: of the scheduler.
        scheduler: whose labels they are.
    """
    return scheduler.config.get("timestep_type") == "continuous" and family.kind == "v_prediction"


def family_of(scheduler: Any, *, step: bool = True) -> Family:
    """The family of a scheduler whose timesteps are set.

    Args:
        scheduler: any object; diffusers' schedulers of the four families are known.
        step: whether it is to be stepped by us, which needs more than reading its states.

    Raises:
        ValueError: one line that names the scheduler and why it cannot be followed.
    """
    config = dict(getattr(scheduler, "config", {}))
    require_signature(scheduler)
    _refuse(scheduler, _unknown_levels(scheduler, config) or _unknown_output(config, step))
    if hasattr(scheduler, "get_scalings_for_boundary_condition"):
        return Consistency(config["sigma_data"], config["sigma_min"])
    if hasattr(scheduler, "precondition_outputs"):
        return Preconditioned(config["prediction_type"], config["sigma_data"])
    if config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return Flow(config.get("prediction_type", FLOW))
    kind = config.get("prediction_type", "epsilon")
    return Exploding(kind) if _scales(scheduler) else Preserving(kind)


def require_signature(scheduler: Any) -> None:
    """Raise ValueError for what is no scheduler, or one whose `step` asks for more than a state and its prediction."""
    _refuse(scheduler, _unknown_signature(scheduler))


def _refuse(scheduler: Any, why: str | None) -> None:
    if why:
        raise ValueError(f"{type(scheduler).__name__} is no scheduler that can be followed: {why}")


_ANY = "use a diffusers one with alphas_cumprod, EDM* or FlowMatch*"
_SIGNATURE = ["model_output", "timestep", "sample"]
_LEARNED = ("learned", "learned_range")


def _unknown_signature(scheduler: Any) -> str | None:
    kind = type(scheduler)  # an observed scheduler's instance is wrapped
    if not callable(getattr(kind, "step", None)) or not callable(getattr(kind, "set_timesteps", None)):
        return _ANY
    parameters = list(inspect.signature(kind.step).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed != _SIGNATURE:
        return f"its step takes {', '.join(needed)}; {_ANY}"
    if any(p.name == "r_timestep" for p in parameters):
        return "its network is conditioned on two times"
    if "jump_length" in inspect.signature(kind.set_timesteps).parameters or hasattr(scheduler, "stage_range"):
        return "it goes back and forth, or changes the size of its states"
    return None


def _unknown_levels(scheduler: Any, config: dict[str, Any]) -> str | None:
    if hasattr(scheduler, "noise_sampler"):
        return "it draws noise of its own, which cannot be seeded per sample"
    if config.get("scale_factors"):
        return "scale_factors change the size of its states"
    if config.get("invert_sigmas"):
        return "invert_sigmas=True counts towards noise: set it to False"
    table = "prediction_type" in config and hasattr(scheduler, "alphas_cumprod")
    known = hasattr(scheduler, "precondition_outputs") or hasattr(scheduler, "get_scalings_for_boundary_condition")
    if not table and not known and not _labels_are_sigmas(scheduler, config):
        return _other_labels(scheduler, config) or _ANY
    labels = scheduler.timesteps.double()
    rising = len(labels) > 1 and float(labels[0]) < float(labels[-1])
    return "it runs from data to noise" if rising or "Inverse" in type(scheduler).__name__ else None


def _labels_are_sigmas(scheduler: Any, config: dict[str, Any]) -> bool:
    off = _label_distances(scheduler, config)
    return off is not None and bool(off.max() < 1.5)


def _label_distances(scheduler: Any, config: dict[str, Any]) -> Tensor | None:
    """(K,) how far labels are from sigmas times the number of training steps; None of one that has no sigma a label."""
    sigmas = getattr(scheduler, "sigmas", None)
    total = config.get("num_train_timesteps")
    if not isinstance(sigmas, Tensor) or not total:
        return None
    labels = scheduler.timesteps.double().cpu()
    sigmas = sigmas[: len(labels)].double().cpu()
    return (labels - total * sigmas).abs() if len(sigmas) == len(labels) else None


def _other_labels(scheduler: Any, config: dict[str, Any]) -> str | None:
    """That a flow was given timesteps beside sigmas, which it then shifts alone (CogView4's loop)."""
    off = _label_distances(scheduler, config)
    if off is None or "shift" not in config:
        return None
    k = int(off.argmax())
    label, sigma = float(scheduler.timesteps[k]), float(scheduler.sigmas[k])
    return (
        f"its network is given {label:g} where its states have sigma = {sigma:.3g}: it was given timesteps beside its sigmas (as "
        "CogView4's pipeline does), and which level a timestep means is not known; give it sigmas alone"
    )


def _unknown_output(config: dict[str, Any], step: bool) -> str | None:
    kind = config.get("prediction_type", FLOW)
    known = (
        ("epsilon", "sample", FLOW) if config.get("use_flow_sigmas") else ("epsilon", "sample", "v_prediction", FLOW)
    )
    if kind not in known:
        return f"prediction_type={kind!r} is unknown here: use {', '.join(known)}"
    if kind == FLOW and "prediction_type" in config and not config.get("use_flow_sigmas"):
        return f"prediction_type={FLOW!r} goes with use_flow_sigmas=True"
    if step and config.get("variance_type") in _LEARNED:
        return "it takes a variance that the network predicts too: set variance_type to 'fixed_small'"
    return None


def _scales(scheduler: Any) -> bool:
    """Whether it keeps its states unscaled and scales the network's input."""
    if not hasattr(scheduler, "scale_model_input"):
        return False
    probe = copy.copy(scheduler)  # some count their steps here
    one = torch.ones(1, dtype=torch.float64)
    return bool((probe.scale_model_input(one, scheduler.timesteps[0]) != 1).any())
