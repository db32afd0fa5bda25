"""Other libraries' objects as models: k-diffusion, smalldiffusion, torchcfm, Meta's flow_matching, azula.

    model = ns.adapters.k_diffusion(denoiser)      # a noiseshift Model: measure, calibrate, guide it
    with ns.observe(model) as seen:                # or watch their own sampler run it
        k_diffusion.sampling.sample_heun(denoiser, x, sigmas)

Each adapter says how its library counts time and what comes back, in both directions: how to evaluate a model, and what
a third-party call was about. None imports its library. `weights` fills a network from that library's checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.files import read_content
from noiseshift.checkpoints.inspection import contents_of
from noiseshift.checkpoints.source.definitions import defined_in as defined_in
from noiseshift.checkpoints.weights import chosen
from noiseshift.diffusion.models import READ, Prediction, Predicts, checked
from noiseshift.diffusion.schedules import Cosine, Linear, Schedule, VarianceExploding, VariancePreserving
from noiseshift.diffusion.wrapping import CallableModel
from noiseshift.integrations.preconditioning import EdmDenoiser as EdmDenoiser


class Call(NamedTuple):
    """What was in one call of a network.

    Attributes:
        x: the states (B, …).
        time: as the library counts it.
        cond: the classes, if any.
    """

    x: Tensor
    time: Tensor
    cond: Tensor | None = None


class Adapted(CallableModel):
    """A library's network as a model. States are the library's own, unscaled.

    Args:
        network: the library's object.
        schedule: the path between data and noise.
        predicts: the space of its predictions.
        evaluate: called as evaluate(x, time, cond); calls the network with its own time.
        call_of: called as call_of(args, kwargs); the inverse, what a call was about.
        to_time: t in [0, 1] → the library's time.
        of_time: the library's time → t.
        value: turns what the network returns into what `predicts` names.
        levels: (K,) the only times that it knows; None for a continuum.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        schedule: Schedule,
        predicts: Predicts,
        *,
        evaluate: Callable[[Tensor, Tensor, Tensor | None], Any],
        call_of: Callable[[tuple[Any, ...], Mapping[str, Any]], Call],
        to_time: Callable[[Tensor], Tensor],
        of_time: Callable[[Tensor], Tensor],
        value: Callable[[Any], Tensor] = lambda output: output,
        levels: Tensor | None = None,
    ):
        super().__init__(self._value_at, schedule, predicts, None, levels, False)
        self.network = network
        self.evaluate = evaluate
        self.value = value
        self.call_of = call_of
        self.to_time = to_time
        self.of_time = of_time

    def _value_at(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self.value(self.evaluate(x, self.to_time(t), cond))

    def read_call(self, call: Call, value: Tensor) -> Prediction:
        """The prediction that was in the `value` of what a third-party call got back.

        Args:
            call: what `call_of` made of the arguments.
            value: (B, …) the part of the answer that counts.

        Returns:
            Of the states as the schedule has them.
        """
        level = self.schedule(self.of_time(call.time.double().flatten()[0].cpu()))
        value = checked(value, call.x, "the observed network")
        return READ[self.predicts](value, call.x, level.like(call.x))


def k_diffusion(
    denoiser: Callable[..., Tensor],
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    condition: str = "class_cond",
) -> Adapted:
    """A k-diffusion denoiser D(x, sigma) → x0 with x = x0 + sigma eps: Denoiser, VDenoiser, OpenAIDenoiser, CompVisDenoiser, …

    Args:
        denoiser: one that lists sigmas and quantizes is evaluated only there.
        sigma_min: the least noise; by default its own where it lists sigmas, else 0.002.
        sigma_max: the largest; by default its own, else 80.
        condition: the keyword that takes classes.

    Returns:
        A model, for measurement, calibration, guidance and `observe`.
    """
    sigmas = getattr(denoiser, "sigmas", None)
    low = sigma_min or (0.002 if sigmas is None else float(sigmas[0]))
    high = sigma_max or (80.0 if sigmas is None else float(sigmas[-1]))
    schedule = VarianceExploding(low, high)
    levels = None
    if sigmas is not None and getattr(denoiser, "quantize", False):
        levels = schedule.time_of_sigma(torch.as_tensor(sigmas).double().cpu().clamp(low, high))
    return Adapted(
        denoiser,
        schedule,
        "x0",
        evaluate=lambda x, sigma, cond: denoiser(x, sigma, **({} if cond is None else {condition: cond})),
        call_of=lambda args, kwargs: Call(
            _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "sigma"), kwargs.get(condition)
        ),
        levels=levels,
        **_by_sigma(schedule),
    )


def smalldiffusion(model: nn.Module, schedule: Any, *, predicts: Predicts | None = None) -> Adapted:
    """A smalldiffusion model: x = x0 + sigma eps, or (1 - sigma) x0 + sigma eps for PredFlow.

    Args:
        model: the network.
        schedule: the library's Schedule that it was trained on.
        predicts: what it predicts; by default known by its class (PredX0, PredV, PredFlow, else epsilon).

    Returns:
        A model.

    Raises:
        ValueError: for a schedule without sigmas.
    """
    if getattr(schedule, "sigmas", None) is None:
        raise ValueError("a smalldiffusion schedule lists its sigmas: pass the one that the model was trained on")
    name = type(model).__name__
    kinds: dict[str, Predicts] = {"PredX0": "x0", "PredV": "v_prediction", "PredFlow": "velocity"}
    usual: Predicts = "epsilon"
    named = [kind for key, kind in kinds.items() if key in name]
    space = predicts or (named[0] if named else usual)

    def evaluate(x: Tensor, sigma: Tensor, cond: Tensor | None) -> Tensor:
        # As in its training loop: one sigma per row, with the state's axes.
        answer: Tensor = model(x, sigma.reshape(-1, *[1] * (x.ndim - 1)), cond=cond)
        return answer

    path: Schedule = Linear()
    if space != "velocity":
        path = VarianceExploding(float(schedule.sigmas[0]), float(schedule.sigmas[-1]))
    return Adapted(
        model,
        path,
        space,
        evaluate=evaluate,
        call_of=lambda args, kwargs: Call(
            _argument(args, kwargs, 0, "x"), _argument(args, kwargs, 1, "sigma"), kwargs.get("cond")
        ),
        **_by_sigma(path),
    )


def torchcfm(network: Callable[..., Tensor], schedule: Schedule | None = None) -> Adapted:
    """A torchcfm network(t, x[, y]) → dx/dt, t = 1 data, times (B,).

    Under an optimal-transport coupling the noise depends on the data, and real images noised with fresh noise are not what
    the network was trained on: calibrate such models with care.

    Args:
        network: the velocity.
        schedule: Linear by default (ConditionalFlowMatcher with independent noise); Cosine for
            VariancePreservingConditionalFlowMatcher.

    Returns:
        A model.
    """
    return Adapted(
        network,
        schedule or Linear(),
        "velocity",
        evaluate=lambda x, time, y: network(time, x) if y is None else network(time, x, y),
        call_of=lambda args, kwargs: Call(
            _argument(args, kwargs, 1, "x"), _argument(args, kwargs, 0, "t"), _argument(args, kwargs, 2, "y")
        ),
        value=_turned,
        **_BACKWARDS,
    )


def flow_matching(velocity: Callable[..., Tensor], scheduler: Any = None, *, condition: str = "label") -> Adapted:
    """A velocity model(x=x, t=t, …) of Meta's flow_matching, t = 1 data.

    Args:
        velocity: the network.
        scheduler: its path's scheduler; CondOT when None.
        condition: the keyword that takes classes.

    Returns:
        A model.
    """
    return Adapted(
        velocity,
        _flow_schedule(scheduler),
        "velocity",
        evaluate=lambda x, time, cond: velocity(x=x, t=time, **({} if cond is None else {condition: cond})),
        call_of=lambda args, kwargs: Call(
            _argument(args, kwargs, 0, "x"), _argument(args, kwargs, 1, "t"), kwargs.get(condition)
        ),
        value=_turned,
        **_BACKWARDS,
    )


def azula(denoiser: Any, *, condition: str = "label") -> Adapted:
    """An azula Denoiser with its schedule: denoiser(x_t, t).mean → x0, t = 0 data, times (B,).

    Args:
        denoiser: the library's object.
        condition: the keyword that takes classes.

    Returns:
        A model.
    """
    return Adapted(
        denoiser,
        _azula_schedule(denoiser.schedule),
        "x0",
        evaluate=lambda x, time, cond: denoiser(x, time, **({} if cond is None else {condition: cond})),
        call_of=lambda args, kwargs: Call(
            _argument(args, kwargs, 0, "x_t"), _argument(args, kwargs, 1, "t"), kwargs.get(condition)
        ),
        to_time=lambda t: t,
        of_time=lambda time: time,
        value=lambda output: getattr(output, "mean", output),
    )


class Borrowed(Schedule):
    """A schedule that another library's object computes: `coefficients_of(t)` → (alpha, sigma), t = 0 data."""

    def __init__(self, coefficients_of: Callable[[Tensor], tuple[Tensor, Tensor]]):
        self.coefficients_of = coefficients_of

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.coefficients_of(t)


def _flow_schedule(scheduler: Any) -> Schedule:
    kind = type(scheduler).__name__
    if scheduler is None or kind == "CondOTScheduler":
        return Linear()
    if kind == "CosineScheduler":
        return Cosine()
    if kind == "VPScheduler":
        return VariancePreserving(scheduler.beta_min, scheduler.beta_max)

    def coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
        there = scheduler(1 - t)
        return there.alpha_t, there.sigma_t

    return Borrowed(coefficients)


def _azula_schedule(schedule: Any) -> Schedule:
    if type(schedule).__name__ == "VESchedule":
        return VarianceExploding(schedule.sigma_min, schedule.sigma_max)
    return Borrowed(lambda t: tuple(schedule(t)))


def _by_sigma(schedule: Schedule) -> dict[str, Any]:
    """Libraries that count time in sigma; one outside the schedule's range goes to its end."""

    def of_time(sigma: Tensor) -> Tensor:
        low, high = (float(schedule.coefficients(torch.tensor(t).double())[1]) for t in (0.0, 1.0))
        return schedule.time_of_sigma(sigma.double().clamp(low, high))

    return {"to_time": lambda t: schedule.coefficients(t)[1], "of_time": of_time}


_BACKWARDS: dict[str, Any] = {"to_time": lambda t: 1 - t, "of_time": lambda time: 1 - time}


def _turned(output: Any) -> Any:
    """A velocity the other way round; what is none is handed on, to be refused by name."""
    return -output if isinstance(output, Tensor) and output.dtype != torch.bool else output


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def weights(path: str | Path, network: nn.Module) -> nn.Module:
    """Fill a network, built by the library that trained it, from that library's checkpoint; averaged weights preferred.

    Reads k-diffusion's .pth (`model_ema`) and slim .safetensors, torchcfm's (`ema_model`), flow_matching's (`model`, whose
    averages are listed by position, `shadow_params.N`), smalldiffusion's and other bare state dicts; wrappers' prefixes
    are dropped, that of what the training kept the network in too (`denoise_fn.`, `eps_model.`), and nothing in the file is
    run.

    Args:
        path: the checkpoint.
        network: takes its weights.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or its tensors are not the network's.
    """
    path = Path(path)
    own = network.state_dict()
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    try:
        state = chosen(read_content(path), own, trained).state
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(error).startswith(path.name) else f"{path.name}: {error}") from None
    state = _inside(state, own)
    wrong = [k for k in {**own, **state} if k not in own or k not in state or own[k].shape != state[k].shape]
    if wrong:
        differ = "1 tensor differs" if len(wrong) == 1 else f"{len(wrong)} tensors differ"
        raise CheckpointError(
            f"{path.name} does not fit this {type(network).__name__}: {differ}, first {_difference(wrong[0], state, own)}: "
            "build the network as it was trained"
        )
    network.load_state_dict(state)
    return network.eval()


def _difference(key: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How a tensor of a file and of a network differ."""
    if key in own and key in state:
        return f"{key} is {tuple(state[key].shape)} in the file and {tuple(own[key].shape)} in the network"
    return f"{key} is not in the {'file' if key in own else 'network'}"


def _inside(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The network's own part of a state dict, where it lies under one prefix; else the state dict as it is."""
    first = next(iter(own), "")
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    fitting = [p for p in prefixes if all(p + k in state and state[p + k].shape == v.shape for k, v in own.items())]
    return {key: state[fitting[0] + key] for key in own} if len(fitting) == 1 else state


def schedule(path: str | Path) -> dict[str, Any]:
    """The schedule that lies in a checkpoint file as buffers (betas, alphas_cumprod, alphabar_t, …), as a card describes it.

    Raises CheckpointError where the file is damaged, or holds none.
    """
    found = contents_of(path).schedule
    if found is None:
        raise CheckpointError(f"{Path(path).name} holds no schedule: write the training's own into the card")
    return found.card
