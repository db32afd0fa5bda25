"""Samplers as generators of states: `for step in sample(model, x, times): ...`; t runs from 1 (noise) to 0 (data).

An update takes a step to the next time; whoever wants to look at states, predictions or levels just looks at the steps.
`Step.t` is the level that the network was *told*; what a state really carries is what this library measures.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from noiseshift.diffusion.models import Model, Prediction
from noiseshift.diffusion.noise import Source, normal, torch_generator
from noiseshift.diffusion.schedules import Level, Schedule

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

Noise = Callable[[Tensor], Tensor]
"""Called with a state (B, …); returns fresh standard normal noise like it."""


@dataclass(frozen=True)
class Step:
    """One state of a run: `x` (B, …) lives at time `t` (shape (), after any churn); `prediction` is what the model said
    of it (None for the last state). `internal` marks evaluations inside a second-order step. `first` is the sample index
    of row 0, where whoever reads the states knows it: estimators that draw at random draw by it."""

    index: int
    t: Tensor
    x: Tensor
    prediction: Prediction | None = None
    internal: bool = False
    first: int = 0


@dataclass(frozen=True)
class Transition:
    """What an update may look at: the step it starts from, the time it goes to, the model and its condition."""

    model: Model
    step: Step
    prediction: Prediction
    t_next: Tensor
    cond: Tensor | None
    noise: Noise

    @property
    def level(self) -> Level:
        return self.prediction.level

    @property
    def next_level(self) -> Level:
        return self.model.schedule(self.t_next).like(self.step.x)


class Update(Protocol):
    """Takes the state to the next time."""

    def __call__(self, transition: Transition) -> Tensor: ...


@dataclass(frozen=True)
class PerSampleNoise:
    """Noise for `sample`: row i always draws from generator i, so its noise does not depend on the batch around it."""

    generators: Sequence[Source]

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        return normal(self.generators, x.shape[1:]).to(x)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless there is one generator a row: a single one would give all rows the same noise."""
        if len(self.generators) != len(x):
            raise ValueError(f"noise needs one generator a sample: got {len(self.generators)} for {len(x)} samples")

    @functools.cached_property
    def torch_generators(self) -> list[torch.Generator]:
        """One a row, for code that draws by torch alone; made once, so that every step goes on where the last ended."""
        return [torch_generator(source) for source in self.generators]


def per_sample_noise(generators: Sequence[Source]) -> Noise:
    """See `PerSampleNoise`. `generators` are torch's, or those of `noise.generators`."""
    return PerSampleNoise(generators)


FLOW = "flow_prediction"
"""What diffusers calls the velocity eps - x0 of a flow."""

_NEEDS_NOISE = (
    "this sampler is stochastic: pass noise=torch.Generator(), or samplers.per_sample_noise(generators), one a sample"
)


def _no_noise(x: Tensor) -> Tensor:
    raise ValueError(_NEEDS_NOISE)


def time_grid(model: Model, steps: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """(steps + 1,) float64 times, even from `start` down to `end`, moved to levels that the model knows.

    The last time stays where it is: no call is made there. Levels that fall together are taken once. Raises ValueError
    for fewer than one step, or ends that do not fall within [0, 1].
    """
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, got {steps}")
    if not 0 <= end < start <= 1:
        raise ValueError(f"a grid falls from start to end within [0, 1], got start={start}, end={end}")
    grid = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    known = torch.unique(model.snap(grid[:-1]).double()).flip(0)
    return torch.cat([known[known > end], grid[-1:]])


def karras_grid(model: Model, steps: int, rho: float = 7.0) -> Tensor:
    """EDM's times, `steps` noise scales even in sigma^(1/rho) from the largest to the least (arXiv 2206.00364, eq. 5), moved to
    levels that the model knows: (steps,) float64, so steps - 1 transitions. EDM's own last one, from there to sigma = 0, is
    left out: the state stays at the schedule's least noise.

    Raises ValueError for fewer than two scales, or a schedule where noise over signal is not finite and above 0 at both ends.
    """
    if steps < 2:
        raise ValueError(f"a sampler takes at least 2 noise scales, got {steps}")
    low, high = (model.schedule.log_snr(torch.tensor(t, dtype=torch.float64)).div(-2).exp() for t in (0.0, 1.0))
    if not 1e-9 < low < high < 1e9:
        raise ValueError("EDM's grid spaces the noise scales of variance-exploding models: take heun:N for this one")
    scales = torch.linspace(float(high ** (1 / rho)), float(low ** (1 / rho)), steps, dtype=torch.float64) ** rho
    inside = (-2 * scales[1:-1].log()).clamp(*(-2 * edge.log() for edge in (high, low)))
    times = torch.cat([torch.ones(1), model.schedule.time_of_log_snr(inside), torch.zeros(1)]).double()
    return torch.unique(model.snap(times).double()).flip(0)


def sample(
    model: Model,
    x: Tensor,
    times: Tensor | None,
    *,
    update: Update | Scheduled | None = None,
    cond: Tensor | None = None,
    noise: Noise | torch.Generator | None = None,
) -> Iterator[Step]:
    """Walk x (B, …) at times[0] down `times` (N,), yielding N steps; the last has no prediction.

    `update` is one of this module (`euler` when None); `from_diffusers(…)` brings its own times: pass times=None.
    `noise` makes the randomness that stochastic updates need: `per_sample_noise(generators)`, which does not depend on the
    batch, or a torch.Generator, from which all rows draw in turn. Raises ValueError when times do not fall, or noise is
    needed and there is none; TypeError for an update that was named and not made (`ddim` for `ddim(eta=0)`).
    """
    noise = _drawn_from(noise) if isinstance(noise, torch.Generator) else noise or _no_noise
    if isinstance(update, Scheduled):
        if times is not None:
            raise ValueError("a diffusers scheduler brings its own times: pass times=None")
        yield from update.run(model, x, cond, noise)
        return
    if times is None or times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError("times must be a falling row of at least two numbers, from noise (1) to data (0)")
    if update in (ddim, euler_maruyama):
        raise TypeError("ddim and euler_maruyama make updates: pass update=ddim(eta=0), update=euler_maruyama()")
    move = update or euler
    if not bool(times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"times must lie in [0, 1], got {float(times[0]):g} … {float(times[-1]):g}")
    times = times.double().cpu()
    for index, (t, t_next) in enumerate(itertools.pairwise(times)):
        with torch.no_grad():
            prediction = model(x, _as_told(t, x), cond)
        step = Step(index, t, x, prediction)
        yield step
        with torch.no_grad():
            x = move(Transition(model, step, prediction, t_next, cond, noise))
    yield Step(len(times) - 1, times[-1], x)


def _drawn_from(generator: torch.Generator) -> Noise:
    return lambda x: torch.randn(x.shape, generator=generator, device=generator.device).to(x)


def _as_told(t: Tensor, x: Tensor) -> Tensor:
    # Never in half precision: rounding the time is a noise shift of its own.
    return t.to(x.device, torch.promote_types(x.dtype, torch.float32))


def euler(transition: Transition) -> Tensor:
    """First order in the probability-flow ODE: x + (t' - t) v."""
    return transition.step.x + _span(transition) * transition.prediction.velocity


def heun(transition: Transition) -> Tensor:
    """Second order (trapezoid); the last step, into t = 0, is Euler's, where no model is asked (EDM, 2206.00364, Alg. 1)."""
    x = euler(transition)
    if float(transition.t_next) == 0:
        return x
    there = transition.model(x, _as_told(transition.t_next, x), transition.cond)
    slope = (transition.prediction.velocity + there.velocity) / 2
    return transition.step.x + _span(transition) * slope


def edm_heun(transition: Transition) -> Tensor:
    """EDM's deterministic sampler (arXiv 2206.00364, Alg. 1 without churn): Heun's rule for x/alpha over sigma/alpha, where the
    path bends least; Euler's, which is DDIM's, where no noise is left."""
    now, then, eps = transition.level, transition.next_level, transition.prediction.eps
    if float(then.sigma.flatten()[0]) > 0:
        guess = then.alpha * (transition.step.x / now.alpha + (then.sigma / then.alpha - now.sigma / now.alpha) * eps)
        there = transition.model(guess, _as_told(transition.t_next, guess), transition.cond)
        eps = (eps + there.eps) / 2
    return then.alpha * (transition.step.x / now.alpha + (then.sigma / then.alpha - now.sigma / now.alpha) * eps)


def ddim(eta: float = 0.0) -> Update:
    """DDIM (Song et al., arXiv 2010.02502) for any alpha, sigma: x' = alpha' x0 + sqrt(sigma'² - s²) eps + s z.

    s is eta times the spread of the exact posterior, `posterior_sigma`; eta = 0 is deterministic, eta = 1 ancestral.
    Raises ValueError for a negative eta.
    """
    if not eta >= 0:
        raise ValueError(f"eta must be at least 0 (0 is deterministic, 1 ancestral), got {eta}")

    def update(transition: Transition) -> Tensor:
        now, then, prediction = transition.level, transition.next_level, transition.prediction
        spread = eta * posterior_sigma(now, then)
        x = then.alpha * prediction.x0 + (then.sigma**2 - spread**2).clamp_min(0).sqrt() * prediction.eps
        return x + spread * transition.noise(x) if eta else x

    return update


def posterior_sigma(now: Level, then: Level) -> Tensor:
    """Standard deviation of x' given x and x0: sigma' sqrt(1 - (alpha sigma' / alpha' sigma)²) (DDPM, 2006.11239, eq. 7)."""
    ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
    return then.sigma * (1 - ratio**2).clamp_min(0).sqrt()


def ancestral(transition: Transition) -> Tensor:
    """DDPM's sampler for any alpha, sigma: the exact posterior of x' given x and the predicted x0."""
    return ddim(1.0)(transition)


def euler_maruyama(diffusion: Callable[[Level], Tensor] | None = None) -> Update:
    """First order in the reverse SDE dx = [v - ½ w s] dt + sqrt(w) dW̄, w = `diffusion(level)` (SiT, arXiv 2401.08740, eq. 7).

    w = sigma by default, SiT's choice, which vanishes with the noise. The last step, into t = 0, is deterministic and
    takes the denoiser's mean: the score is singular there.
    """

    def update(transition: Transition) -> Tensor:
        if float(transition.t_next) == 0:
            return transition.next_level.alpha * transition.prediction.x0
        x, level = transition.step.x, transition.level
        w = level.sigma if diffusion is None else diffusion(level)
        drift = transition.prediction.velocity - w / 2 * transition.prediction.score
        span = _span(transition)
        return x + span * drift + (w * abs(span)).sqrt() * transition.noise(x)

    return update


def _span(transition: Transition) -> float:
    return float(transition.t_next - transition.step.t)


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
                prediction = model(state * factor, _as_told(told[index], state), cond)
            yield Step(index, told[index], state * factor, prediction, internal=order[index])
            with torch.no_grad():
                output = self._output(prediction.x0, prediction.eps, alpha, sigma)
                state = _advance(scheduler, output, label, state, noise)
        alpha, sigma = _last_level(scheduler, self._is_flow(), self._is_exploding())
        if sigma == 0:
            yield Step(len(told), torch.tensor(0.0, dtype=torch.float64), state)
            return
        end = schedule_times(schedule, [(alpha, sigma)])[0]
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
        raise ValueError(_NEEDS_NOISE)


def _generator(scheduler: Any, noise: Noise, x: Tensor) -> dict[str, Any]:
    """Schedulers draw their own noise: hand them the per-sample generators where they take any."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    if not isinstance(noise, PerSampleNoise):
        return {"generator": _NoGenerator()}
    noise.check(x)
    return {"generator": noise.torch_generators}
