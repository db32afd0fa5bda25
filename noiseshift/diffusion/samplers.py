"""Samplers as generators of states: `for step in sample(model, x, times): ...`; t runs from 1 (noise) to 0 (data).

An update takes a step to the next time; whoever wants to look at states, predictions or levels just looks at the steps.
`Step.t` is the *conditioning* time of the network; the effective noise level of the state is what this library measures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from noiseshift.diffusion.families import FLOW
from noiseshift.diffusion.models import Model, Prediction
from noiseshift.diffusion.schedulers import Scheduled, from_diffusers, reached_levels, schedule_times
from noiseshift.diffusion.schedules import Level
from noiseshift.diffusion.steps import Noise, PerSampleNoise, Step, finite, no_noise, per_sample_noise, predict_at

__all__ = [
    "FLOW",
    "Noise",
    "PerSampleNoise",
    "Scheduled",
    "Step",
    "Transition",
    "Update",
    "ancestral",
    "coefficients_preserving",
    "ddim",
    "edm_heun",
    "euler",
    "euler_maruyama",
    "flow_sde",
    "from_diffusers",
    "heun",
    "karras_grid",
    "per_sample_noise",
    "posterior_sigma",
    "precise",
    "reached_levels",
    "sample",
    "schedule_times",
    "time_grid",
]


@dataclass(frozen=True)
class Transition:
    """What an update may look at.

    Attributes:
        model: the model, guided or not.
        step: the state that it starts from.
        prediction: the model's for that state.
        t_next: the time that it goes to, ().
        cond: (B,) classes, or None.
        noise: makes standard normal noise like a state.
    """

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


def time_grid(model: Model, steps: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Times even in t, moved to levels that the model knows.

    Levels that fall together are taken once. The last time stays where it is: no prediction is made there.

    Args:
        model: knows its levels.
        steps: how many transitions, at least 1.
        start: the first time.
        end: the last one.

    Returns:
        (steps + 1,) float64, falling.

    Raises:
        ValueError: for fewer than one step, or ends that do not fall within [0, 1].
    """
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, got {steps}")
    if not 0 <= end < start <= 1:
        raise ValueError(f"a grid falls from start to end within [0, 1], got start={start}, end={end}")
    grid = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    known = torch.unique(model.snap(grid[:-1]).double()).flip(0)
    return torch.cat([known[known > end], grid[-1:]])


def karras_grid(model: Model, steps: int, rho: float = 7.0) -> Tensor:
    """EDM's times (arXiv 2206.00364, eq. 5): noise scales even in sigma^(1/rho), moved to levels that the model knows.

    EDM's own last transition, from the least scale to sigma = 0, is left out: the state stays at the schedule's least noise.

    Args:
        model: knows its schedule and its levels.
        steps: how many noise scales, at least 2.
        rho: 1 is even in sigma; larger values put more of them near the data.

    Returns:
        (steps,) float64, falling, so steps - 1 transitions.

    Raises:
        ValueError: for fewer than two scales, or a schedule where noise over signal is not finite and above 0 at both ends.
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
    """Sample, and yield every state on the way.

    Args:
        model: guided or not.
        x: (B, …) the state at times[0].
        times: (N,) falling, in [0, 1]; None for an update that brings its own, as `from_diffusers(…)` does.
        update: one of this module; `euler` when None.
        cond: (B,) classes, or None.
        noise: the randomness of stochastic updates: `per_sample_noise(generators)`, which does not depend on the batch, or a
            torch.Generator, from which all rows draw in turn.

    Yields:
        N steps; the last is the final state and has no prediction.

    Raises:
        ValueError: times do not fall, or noise is needed and there is none.
        TypeError: for an update that was named and not made (`ddim` for `ddim(eta=0)`).
    """
    noise = _drawn_from(noise) if isinstance(noise, torch.Generator) else noise or no_noise
    if isinstance(update, Scheduled):
        if times is not None:
            raise ValueError("a diffusers scheduler brings its own times: pass times=None")
        yield from update.run(model, x, cond, noise)
        return
    if times is None or times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError("times must be a falling row of at least two numbers, from noise (1) to data (0)")
    if update in (ddim, euler_maruyama, flow_sde, coefficients_preserving, precise):
        raise TypeError(
            "ddim, euler_maruyama, flow_sde, coefficients_preserving and precise make updates: pass update=ddim(eta=0), "
            "update=euler_maruyama(), update=flow_sde(), update=coefficients_preserving(), update=precise()"
        )
    move = update or euler
    if not bool(times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"times must lie in [0, 1], got {float(times[0]):g} … {float(times[-1]):g}")
    times = times.double().cpu()
    for index, (t, t_next) in enumerate(itertools.pairwise(times)):
        with torch.no_grad():
            prediction = predict_at(model, x, t, cond)
        step = Step(index, t, x, prediction)
        yield step
        with torch.no_grad():
            x = move(Transition(model, step, prediction, t_next, cond, noise))
    yield Step(len(times) - 1, times[-1], finite(x, times[-1], "the sampler's state"))


def _drawn_from(generator: torch.Generator) -> Noise:
    return lambda x: torch.randn(x.shape, generator=generator, device=generator.device).to(x)


def euler(transition: Transition) -> Tensor:
    """First order in the probability-flow ODE: x + (t' - t) v."""
    return transition.step.x + _span(transition) * transition.prediction.velocity


def heun(transition: Transition) -> Tensor:
    """Second order (trapezoid); the last step, into t = 0, is Euler's, where no model is evaluated (EDM, 2206.00364, Alg. 1)."""
    x = euler(transition)
    if float(transition.t_next) == 0:
        return x
    there = predict_at(transition.model, x, transition.t_next, transition.cond)
    slope = (transition.prediction.velocity + there.velocity) / 2
    return transition.step.x + _span(transition) * slope


def edm_heun(transition: Transition) -> Tensor:
    """EDM's deterministic sampler (arXiv 2206.00364, Alg. 1 without churn): Heun's rule for x/alpha over sigma/alpha, where the
    path bends least; Euler's, which is DDIM's, where no noise is left."""
    now = transition.level
    then = transition.next_level
    eps = transition.prediction.eps
    if float(now.alpha.flatten()[0]) == 0:
        raise ValueError("this sampler divides by alpha, which is 0 at t = 1 of this schedule: take heun")
    span = then.sigma / then.alpha - now.sigma / now.alpha

    def moved(eps: Tensor) -> Tensor:
        return then.alpha * (transition.step.x / now.alpha + span * eps)

    x = moved(eps)
    if float(then.sigma.flatten()[0]) <= 0:
        return x
    there = predict_at(transition.model, x, transition.t_next, transition.cond)
    return moved((eps + there.eps) / 2)


def ddim(eta: float = 0.0) -> Update:
    """DDIM (Song et al., arXiv 2010.02502) for any alpha, sigma: x' = alpha' x0 + sqrt(sigma'² - s²) eps + s z.

    Args:
        eta: s is eta times the spread of the exact posterior, `posterior_sigma`; 0 is deterministic, 1 ancestral.

    Returns:
        An update, for `sample`.

    Raises:
        ValueError: for a negative eta.
    """
    if not eta >= 0:
        raise ValueError(f"eta must be at least 0 (0 is deterministic, 1 ancestral), got {eta}")

    def update(transition: Transition) -> Tensor:
        now = transition.level
        then = transition.next_level
        prediction = transition.prediction
        spread = eta * posterior_sigma(now, then)
        x = then.alpha * prediction.x0 + (then.sigma**2 - spread**2).clamp_min(0).sqrt() * prediction.eps
        return x + spread * transition.noise(x) if eta else x

    return update


def posterior_sigma(now: Level, then: Level) -> Tensor:
    """Standard deviation of x' given x and x0: sigma' sqrt(1 - (alpha sigma' / alpha' sigma)²) (DDPM, 2006.11239, eq. 7).

    Args:
        now: the level of x.
        then: the level of x', of less noise.

    Returns:
        Like alpha and sigma; 0 where rounding would make it negative.
    """
    ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
    return then.sigma * (1 - ratio**2).clamp_min(0).sqrt()


def ancestral(transition: Transition) -> Tensor:
    """DDPM's sampler for any alpha, sigma: the exact posterior of x' given x and the predicted x0."""
    return ddim(1.0)(transition)


def euler_maruyama(diffusion: Callable[[Level], Tensor] | None = None) -> Update:
    """First order in the reverse SDE dx = [v - ½ w s] dt + sqrt(w) dW̄ (SiT, arXiv 2401.08740, eq. 7).

    The last step, into t = 0, is deterministic and takes the denoiser's mean: the score is singular there.

    Args:
        diffusion: w at a level. By default w = sigma, SiT's choice, which vanishes with the noise.

    Returns:
        An update, for `sample`.
    """

    def update(transition: Transition) -> Tensor:
        if float(transition.t_next) == 0:
            return transition.next_level.alpha * transition.prediction.x0
        x = transition.step.x
        level = transition.level
        w = level.sigma if diffusion is None else diffusion(level)
        drift = transition.prediction.velocity - w / 2 * transition.prediction.score
        span = _span(transition)
        return x + span * drift + (w * abs(span)).sqrt() * transition.noise(x)

    return update


def flow_sde(a: float = 0.7) -> Update:
    """The stochastic sampler of Flow-GRPO (Liu et al., arXiv 2505.05470, eq. 9): Euler–Maruyama in the reverse SDE with the
    diffusion a sqrt(sigma / alpha), a sqrt(t / (1 - t)) of a flow.

    As its authors run it, alpha of the next time stands in where alpha is 0, and noise is drawn in the last step too, which
    leaves sigma = a t / sqrt(1 - t) of the last state's t in the final sample.

    Args:
        a: how much noise is drawn; 0 is Euler.

    Raises:
        ValueError: for a negative a.
    """
    if not 0 <= a < math.inf:
        raise ValueError(f"a must be at least 0 (0 is deterministic), got {a}")

    def update(transition: Transition) -> Tensor:
        x = transition.step.x
        now = transition.level
        alpha = torch.where(now.alpha > 0, now.alpha, transition.next_level.alpha)
        diffusion = a**2 * now.sigma / alpha
        drift = transition.prediction.velocity - diffusion / 2 * transition.prediction.score
        span = _span(transition)
        x = x + span * drift
        return x + (diffusion * abs(span)).sqrt() * transition.noise(x) if a else x

    return update


def coefficients_preserving(eta: float = 0.7) -> Update:
    """CPS (Wang & Yu, arXiv 2509.05952): x' = alpha' x0 + sigma' [cos(eta π/2) eps + sin(eta π/2) z].

    The noise's coefficients keep to the schedule whatever the step is. What the network does not know of x0 is left out,
    however, and at a share of eps that does not shrink with the step: finer steps do not bring back the data's variance.

    Args:
        eta: the share of noise that is drawn anew, in [0, 1]; 0 is DDIM.

    Raises:
        ValueError: for an eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta lies in [0, 1] (0 is deterministic, 1 draws all noise anew), got {eta}")
    kept, fresh = math.cos(eta * math.pi / 2), math.sin(eta * math.pi / 2)

    def update(transition: Transition) -> Tensor:
        then = transition.next_level
        prediction = transition.prediction
        x = then.alpha * prediction.x0 + then.sigma * kept * prediction.eps
        return x + then.sigma * fresh * transition.noise(x) if eta else x

    return update


def precise(eta: float = 0.7) -> Update:
    """Precise (Zou et al., arXiv 2605.23522): x' = alpha' x0 + sigma' [ρ eps + √(1 - ρ²) z], ρ = ((σ'/α') / (σ/α))^(eta²/2).

    The exact step of the diffusion that draws eta² times the fall of log-SNR, for x0 held at its prediction. The share of noise
    that is drawn anew shrinks with the step, so that finer steps lead to the data's distribution. (The transition is that of the
    authors' code; they run it on flows.)

    Args:
        eta: how much noise is drawn, at least 0; 0 is DDIM, √2 is DDPM.

    Raises:
        ValueError: for an eta below 0.
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta must be 0 (deterministic) or above, got {eta}")

    def update(transition: Transition) -> Tensor:
        now, then = transition.level, transition.next_level
        prediction = transition.prediction
        share = ((then.sigma * now.alpha) / (now.sigma * then.alpha)) ** (eta**2)
        x = then.alpha * prediction.x0 + then.sigma * share.sqrt() * prediction.eps
        return x + then.sigma * (1 - share).sqrt() * transition.noise(x) if eta else x

    return update


def _span(transition: Transition) -> float:
    return float(transition.t_next - transition.step.t)
