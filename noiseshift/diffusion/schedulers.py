"""The bridge to diffusers: its schedulers as samplers, run by their own code, their states translated to a model's schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.diffusion.models import Model
from noiseshift.diffusion.schedules import Schedule
from noiseshift.diffusion.steps import NEEDS_NOISE, Noise, PerSampleNoise, Step, ask, finite

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

FLOW = "flow_prediction"
"""What diffusers calls the velocity eps - x0 of a flow."""


def from_diffusers(
    scheduler: SchedulerMixin | Any, steps: int, *, timing: Mapping[str, Any] | None = None
) -> Scheduled:
    """Any diffusers scheduler as a sampler of `steps` steps, run by its own code; see `Scheduled`. `timing` is what a
    pipeline also hands to its `set_timesteps`, as Flux does `sigmas` and `mu`."""
    return Scheduled(scheduler, steps, timing)


class Scheduled:
    """A diffusers scheduler driven step by step, its states translated to the model's schedule and back.

    States of DDPM, DDIM, DPM++ and the like are variance preserving, (sqrt(abar), sqrt(1 - abar)); of Euler, Heun, EDM,
    LMS, KDPM2 variance exploding, (1, sigma); of flow-matching schedulers (1 - sigma, sigma). The network is told the
    level of the scheduler's *timestep label*; where the scheduler's arithmetic lands elsewhere (DDIM with a stride that
    does not divide its 1000 steps), that is a shift, and it is left in for the measurement to find; `reached_levels`
    tells it in advance. Raises ValueError for fewer than one step and for schedulers of another kind.
    """

    def __init__(self, scheduler: Any, steps: int, timing: Mapping[str, Any] | None = None):
        if steps < 1:
            raise ValueError(f"a sampler takes at least 1 step, got {steps}")
        _require_supported(scheduler)
        self.steps, self.timing = steps, dict(timing or {})
        self.scheduler = scheduler
        self.scheduler = self._fresh()

    @classmethod
    def of(cls, scheduler: SchedulerMixin | Any) -> Scheduled:
        """A view of a scheduler whose timesteps somebody else has set, as a pipeline's; for `levels` and `read`."""
        _require_supported(scheduler)
        view = cls.__new__(cls)
        view.scheduler, view.steps, view.timing = scheduler, len(scheduler.timesteps), {}
        return view

    def internal(self) -> list[bool]:
        """Which of the timesteps are evaluations inside a step, and not states of the run."""
        return _internal(self.scheduler)

    def read(self, output: Tensor, state: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """(x0, eps) of a network's output for the scheduler's own state at (alpha, sigma): the inverse of what `run` does.

        Raises ValueError for a prediction type that is none of epsilon, sample, v_prediction and flow.
        """
        if self._predicts_flow():
            return state - sigma * output, state + (1 - sigma) * output
        kind = getattr(self.scheduler.config, "prediction_type", "epsilon")
        if kind == "epsilon":
            return (state - sigma * output) / max(alpha, 1e-10), output
        if kind == "sample":
            return output, (state - alpha * output) / sigma
        if kind == "v_prediction" and not hasattr(self.scheduler, "precondition_outputs"):
            norm = math.hypot(alpha, sigma)
            a, s, seen = alpha / norm, sigma / norm, state / norm
            # In their own scaling: state = alpha x0 + sigma eps.
            return a * seen - s * output, s * seen + a * output
        raise ValueError(f"outputs of {type(self.scheduler).__name__} with {kind} cannot be read: record them yourself")

    def run(self, model: Model, x: Tensor, cond: Tensor | None, noise: Noise) -> Iterator[Step]:
        """The steps; x (B, …) is sigma(1) eps of the model's schedule. Repeated levels within a step are internal."""
        scheduler, schedule = self._fresh(), model.schedule
        levels = self.levels()
        told = schedule_times(schedule, levels)
        first = model.schedule(torch.tensor(1.0)).like(x)
        state = x / first.sigma * self._initial_scale(levels[0])
        order = _internal(scheduler)
        for index, label in enumerate(scheduler.timesteps):
            alpha, sigma = (float(part) for part in levels[index])
            here = schedule(told[index]).like(state)
            # Same log-SNR, so one factor turns their state into ours.
            factor = here.sigma / sigma
            with torch.no_grad():
                prediction = ask(model, state * factor, told[index], cond)
            yield Step(index, told[index], state * factor, prediction, internal=order[index])
            with torch.no_grad():
                output = self._output(prediction.x0, prediction.eps, alpha, sigma)
                state = _advance(scheduler, output, label, state, noise)
        alpha, sigma = _last_level(scheduler, self._is_flow(), self._is_exploding())
        if sigma == 0:
            end = torch.tensor(0.0, dtype=torch.float64)
            yield Step(len(told), end, finite(state, end, "the scheduler's state"))
            return
        end = schedule_times(schedule, [(alpha, sigma)])[0]
        state = finite(state, end, "the scheduler's state")
        yield Step(len(told), end, state * (schedule(end).like(state).sigma / sigma))

    def _fresh(self) -> Any:
        # Schedulers keep a history: two runs of one update, side by side, must not share it.
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(self.steps, **self.timing)
        return scheduler

    def levels(self) -> list[tuple[float, float]]:
        """(alpha, sigma) of the scheduler's states at each timestep label, in its own scaling."""
        scheduler = self.scheduler
        if self._is_flow():
            return [(1 - float(s), float(s)) for s in scheduler.sigmas[: len(scheduler.timesteps)]]
        if self._is_exploding():
            sigmas = [float(s) for s in scheduler.sigmas[: len(scheduler.timesteps)]]
            if hasattr(scheduler, "sigmas_interpol"):  # KDPM2 evaluates at midpoints of its own
                first = 0 if "Ancestral" in type(scheduler).__name__ else 1
                sigmas[1::2] = [float(s) for s in scheduler.sigmas_interpol[first : len(sigmas) : 2]][
                    : len(sigmas) // 2
                ]
            return [(1.0, s) for s in sigmas]
        cumulative = scheduler.alphas_cumprod.double()
        picked = [float(cumulative[int(label)]) for label in scheduler.timesteps]
        return [(a**0.5, (1 - a) ** 0.5) for a in picked]

    def times(self, schedule: Schedule) -> Tensor:
        """(n,) float64 told times on a model's schedule, without the final 0 and without internal evaluations."""
        told = schedule_times(schedule, self.levels())
        return told[~torch.tensor(_internal(self.scheduler))]

    def _is_flow(self) -> bool:
        """States are (1 - sigma) x0 + sigma eps: a FlowMatch* scheduler, or a DPM++ or UniPC set to flow sigmas."""
        return "FlowMatch" in type(self.scheduler).__name__ or bool(self.scheduler.config.get("use_flow_sigmas"))

    def _predicts_flow(self) -> bool:
        return self._is_flow() and self.scheduler.config.get("prediction_type", FLOW) == FLOW

    def _is_exploding(self) -> bool:
        # Those that scale the network's input keep their state unscaled.
        name = type(self.scheduler).__name__
        return any(key in name for key in ("Euler", "Heun", "LMS", "KDPM2", "EDM")) and not self._is_flow()

    def _initial_scale(self, level: tuple[float, float]) -> float:
        return float(getattr(self.scheduler, "init_noise_sigma", 1.0)) if not self._is_flow() else 1.0

    def _output(self, x0: Tensor, eps: Tensor, alpha: float, sigma: float) -> Tensor:
        """The model's answer in the form that the scheduler expects."""
        if self._predicts_flow():
            return eps - x0
        kind = getattr(self.scheduler.config, "prediction_type", "epsilon")
        if hasattr(self.scheduler, "precondition_outputs"):
            # EDM's schedulers expect the raw network F of D = c_skip x + c_out F (Karras et al., 2206.00364, eq. 7).
            data = self.scheduler.config.sigma_data
            total = (sigma**2 + data**2) ** 0.5
            network = (x0 - (data / total) ** 2 * (x0 + sigma * eps)) * total / (sigma * data)
            return -network if kind == "v_prediction" else network  # theirs has c_out < 0 for v
        if kind == "epsilon":
            return eps
        if kind == "sample":
            return x0
        if kind == "v_prediction":
            norm = (alpha**2 + sigma**2) ** 0.5
            return (alpha * eps - sigma * x0) / norm
        raise ValueError(
            f"a scheduler with prediction_type={kind!r} is not supported: use epsilon, sample or v_prediction"
        )


def _last_level(scheduler: Any, flow: bool, exploding: bool) -> tuple[float, float]:
    """(alpha, sigma) where a run ends, in the scheduler's own scaling: clean data, or the least noise that it knows."""
    if not hasattr(scheduler, "sigmas"):
        alpha2 = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        return alpha2**0.5, (1 - alpha2) ** 0.5
    if len(scheduler.sigmas) == len(scheduler.timesteps):
        return 1.0, 0.0
    sigma = float(scheduler.sigmas[-1])
    if flow:
        return 1 - sigma, sigma
    norm = 1.0 if exploding else math.hypot(1.0, sigma)
    return 1 / norm, sigma / norm


def schedule_times(schedule: Schedule, levels: Sequence[tuple[float, float]]) -> Tensor:
    """The times of a schedule that have the log-SNR of each (alpha, sigma); those beyond its ends go to the ends."""
    log_snr = torch.tensor([2 * math.log(max(a, 1e-30) / s) for a, s in levels], dtype=torch.float64)
    low, high = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0))
    return schedule.time_of_log_snr(log_snr.clamp(low, high))


def reached_levels(scheduler: SchedulerMixin | Any, steps: int) -> tuple[Tensor, Tensor]:
    """What a scheduler's own arithmetic makes of each transition: (told, reached) log-SNR, float64, both (n - 1,).

    From a state exactly at its label's level and a prediction without error, entry k says which level step k lands on
    and which one the network is told next; internal evaluations are left out. Where the two differ, the sampler shifts
    with a perfect model. Stochastic schedulers are read to about 0.01, others to rounding. Raises ValueError as `Scheduled` does.
    """
    update = Scheduled(scheduler, steps)
    fresh, levels = update._fresh(), update.levels()
    # Orthogonal signs: the state's two coefficients come apart exactly, and clipping to [-1, 1] changes nothing.
    # Opposite rows under equal noise: their difference is free of it, their sum is nothing else.
    x0 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(1, 2**15)
    eps = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64).repeat(1, 2**14)
    noise, reached = PerSampleNoise([torch.Generator().manual_seed(0) for _ in range(2)]), []
    for label, (alpha, sigma) in zip(fresh.timesteps, levels, strict=True):
        state = _advance(fresh, update._output(x0, eps, alpha, sigma), label, alpha * x0 + sigma * eps, noise).double()
        drawn, given = (state[0] + state[1]) / 2, (state[0] - state[1]) / 2
        signal = (given * x0[0]).mean()
        variance = (given - signal * x0[0]).square().mean() + drawn.square().mean()
        reached.append(2 * signal.log() - variance.log())
    told = torch.tensor([2 * (math.log(max(a, 1e-30)) - math.log(s)) for a, s in levels], dtype=torch.float64)
    true = ~torch.tensor(_internal(fresh))[1:]
    return told[1:][true], torch.stack(reached)[:-1][true]


def _require_supported(scheduler: Any) -> None:
    name, config = type(scheduler).__name__, dict(getattr(scheduler, "config", {}))
    flow = "FlowMatch" in name
    known = flow or hasattr(scheduler, "alphas_cumprod") or "EDM" in name
    if not known or not (flow or "prediction_type" in config) or hasattr(scheduler, "noise_sampler"):
        raise ValueError(
            f"{name} is no scheduler that can be followed: use a diffusers one with alphas_cumprod, EDM* or FlowMatch*"
        )
    if config.get("use_flow_sigmas") and config.get("prediction_type") not in (FLOW, "epsilon", "sample"):
        raise ValueError(f"{name} with use_flow_sigmas predicts no flow: give it prediction_type={FLOW!r}")


def _advance(scheduler: Any, output: Tensor, label: Tensor, state: Tensor, noise: Noise) -> Tensor:
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(state, label)  # some only count their steps here
    return scheduler.step(output, label, state, return_dict=False, **_generator(scheduler, noise, state))[0]


def _internal(scheduler: Any) -> list[bool]:
    """Which evaluations are inside a step, and not states of the run."""
    n = len(scheduler.timesteps)
    if getattr(scheduler, "order", 1) == 2:
        return [i % 2 == 1 for i in range(n)]
    if hasattr(scheduler, "order_list"):  # singlestep solvers start again from the state where the order is 1
        return [order > 1 for order in scheduler.order_list]
    if not hasattr(scheduler, "prk_timesteps"):
        return [False] * n
    # PNDM: four evaluations a Runge-Kutta step; without those its second label is asked twice, first of a trial state.
    runge = len(scheduler.prk_timesteps)
    return [i % 4 != 0 for i in range(runge)] + [runge == 0 and n > 2 and i == 1 for i in range(n - runge)]


class _NoGenerator:
    """Stands in for a generator: asking it for noise names the remedy, where diffusers would draw unseeded noise."""

    @property
    def device(self) -> torch.device:
        raise ValueError(NEEDS_NOISE)


def _generator(scheduler: Any, noise: Noise, x: Tensor) -> dict[str, Any]:
    """Schedulers draw their own noise: hand them the per-sample generators where they take any."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    if not isinstance(noise, PerSampleNoise):
        return {"generator": _NoGenerator()}
    noise.check(x)
    return {"generator": noise.torch_generators}
