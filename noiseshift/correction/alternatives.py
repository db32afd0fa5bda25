"""Other ways to correct a state's level, for a fair comparison with noise awareness guidance; each wraps a model or an
update and is a model or an update itself.

Ways that need the effective noise level of a state take it from `effective_level(x, t, cond)`, such as `EstimatedLevel`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.guidance import EffectiveLevel
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import FULL, GuidedPrediction, Model, Prediction, Scale, Wrapped
from noiseshift.diffusion.noise import PERTURBING, generators, normal
from noiseshift.diffusion.samplers import Transition, Update
from noiseshift.diffusion.schedules import Level
from noiseshift.estimators.instrument import Calibration, Instrument
from noiseshift.estimators.parts import haar, inverse_haar
from noiseshift.estimators.posterior import Estimator


class EstimatedLevel:
    """The effective noise level of each state, by an estimator: posterior mean minus the calibration's bias at time t.

    Called as (x (B, …), t (), cond) → (B,).

    Args:
        reader: an instrument, or an estimator, which reads the posterior.
        calibration: of a bare estimator: gives the bias. Without it the reading is taken as it is, which is right only for an exact
            estimator.
        reach: readings stay within it of t, in units of min(t, 1 - t): a far one is a failed estimate.
    """

    def __init__(
        self,
        reader: Estimator | Instrument,
        calibration: Calibration | Instrument | None = None,
        *,
        reach: float = 0.5,
    ):
        self.estimator = reader.estimator if isinstance(reader, Instrument) else reader
        self.reach = reach
        self.bias: Callable[[float], float] = lambda t: 0.0
        calibration = reader if isinstance(reader, Instrument) else calibration
        if calibration is not None:
            order = np.argsort(calibration.times)
            times, bias = calibration.times[order], calibration.bias[order]
            self.bias = lambda t: float(np.interp(t, times, bias))

    def describe(self) -> dict[str, Any]:
        """Estimator and reach; the calibration is what its data, seed and times make of them."""
        return {"estimator": identity(self.estimator), "reach": self.reach}

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        t_cond = float(t.flatten()[0])
        read = self.estimator(x, cond).mean.to(x.device) - self.bias(t_cond)
        room = self.reach * min(t_cond, 1 - t_cond)
        return read.clamp(t_cond - room, t_cond + room)


class EpsilonScaled(Wrapped):
    """Epsilon scaling, eps / (b + k T), T the number of steps still to go over all of them, here t (ADM-ES: Ning et al.,
    arXiv 2308.15321, eq. 9).

    Args:
        model: whose noise is scaled.
        offset: b, near 1.
        slope: k, 0 for the uniform schedule.
    """

    def __init__(self, model: Model, offset: float, slope: float = 0.0):
        super().__init__(model)
        self.offset = offset
        self.slope = slope

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        plain = self.model(x, t, cond)
        scale = self.offset + self.slope * t.to(plain.eps).reshape(-1, *[1] * (x.ndim - 1))
        eps = plain.eps / scale
        level = plain.level
        # Where alpha is 0 the state is all noise and says nothing of x0: it stays as it was.
        x0 = torch.where(level.alpha > 1e-4, (x - level.sigma * eps) / level.alpha.clamp_min(1e-4), plain.x0)
        return GuidedPrediction(x0, eps, level, {FULL: plain})


class ScoreRescaled(Wrapped):
    """Temporal score rescaling (TSR: arXiv 2510.01184), eps r(t) with r = (snr s² + 1) / (snr s² / k + 1), snr = alpha² / sigma².

    Of Gaussian data of standard deviation s it makes the exact score of data of s / √k: k > 1 sharpens, k < 1 widens, 1 changes
    nothing. (The ratio is that of the authors' schedulers for diffusers.)

    Args:
        model: whose noise is rescaled.
        k: by what the variance is divided, above 0.
        spread: s, of a mode of the data, above 0. The authors' schedulers take 1 for DDIM and 0.1 for flows.
    """

    def __init__(self, model: Model, k: float, spread: float = 1.0):
        if not (k > 0 and spread > 0):
            raise ValueError(f"temporal score rescaling takes k and a spread above 0, got {k:g} and {spread:g}")
        super().__init__(model)
        self.k = k
        self.spread = spread

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        plain = self.model(x, t, cond)
        level = plain.level
        signal, noise = level.alpha**2 * self.spread**2, level.sigma**2
        eps = plain.eps * (signal + noise) / (signal / self.k + noise)
        x0 = torch.where(level.alpha > 1e-4, (x - level.sigma * eps) / level.alpha.clamp_min(1e-4), plain.x0)
        return GuidedPrediction(x0, eps, level, {FULL: plain})


class TimeShifted(Wrapped):
    """Time-shift sampler (TS-DPM: Li et al., arXiv 2305.15583).

    The network is conditioned on the nearby time whose noise variance sigma² is nearest the variance over a state's
    coordinates. The update goes on from the scheduled t. Made for variance-preserving schedules and data of variance near 1.

    Args:
        model: whose conditioning time is moved.
        window: the time is searched within half of it on either side of t.
        cutoff: the time is moved only while t is above it.
    """

    def __init__(self, model: Model, window: float, cutoff: float):
        super().__init__(model)
        self.window = window
        self.cutoff = cutoff

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        t_cond = float(t.flatten()[0])
        if t_cond <= self.cutoff or t_cond >= 1:
            return self.model(x, t, cond)
        return _conditioned_on(self.model, x, t, self._shifted(x, t_cond), cond)

    def _shifted(self, x: Tensor, t_cond: float) -> Tensor:
        """(B,) the time of each state."""
        around = torch.linspace(-self.window / 2, self.window / 2, 41, dtype=torch.float64) + t_cond
        times = self.model.snap(around[(around > 0) & (around < 1)])
        variance = x.flatten(1).double().var(1).cpu()
        distance = (self.schedule(times).sigma[None] ** 2 - variance[:, None]).abs()
        return times[distance.argmin(1)].to(x.device)


class LevelGuidance(Wrapped):
    """NAG at the effective level [own]: s(x|t) + scale (s(x|t) - s(x|t̂)), t̂ the state's effective noise level.

    It needs no noise-unconditional branch, and so no training of the network. Two forwards a call in one batch.

    Args:
        model: is evaluated at t and at t̂.
        scale: 0 = unguided.
        effective_level: reads t̂, such as `EstimatedLevel`.
        interval: times between which it acts; outside, scores are singular or t̂ cannot be read.
    """

    def __init__(
        self, model: Model, scale: float, effective_level: EffectiveLevel, *, interval: tuple[float, float] = (0.0, 0.6)
    ):
        super().__init__(model)
        self.scale = scale
        self.effective_level = effective_level
        self.interval = interval

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        low, high = self.interval
        if not self.scale or not low <= float(t.flatten()[0]) <= high:
            return self.model(x, t, cond)
        effective = self.model.snap(self.effective_level(x, t, cond))
        full, other = _two_times(self.model, x, t, effective, cond)
        return _mix_scores(x, full, other, self.scale)


class TimeStepGuidance(Wrapped):
    """Time-step guidance (TSG: Sadat et al., arXiv 2407.02687): s + scale (s(x|t) - s(x|t̃)), t̃ = t + spread t^power z.

    z is normal, one a row and step, drawn by the row's own state, whatever the batch around it. The paper perturbs the
    time embedding; here the time itself is perturbed, which any model allows. No training; two forwards a call in one
    batch.

    Args:
        model: is evaluated at t and at t̃.
        scale: 0 = unguided.
        spread: of the perturbation, at t = 1.
        power: how the perturbation falls with t.
        seed: of z.
    """

    def __init__(self, model: Model, scale: float, *, spread: float = 0.1, power: float = 1.0, seed: int = 0):
        super().__init__(model)
        self.scale = scale
        self.spread = spread
        self.power = power
        self.seed = seed

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        t_cond = float(t.flatten()[0])
        if not self.scale or t_cond >= 1:
            return self.model(x, t, cond)
        sources = generators(map(_digest, x), seed=self.seed, stream=PERTURBING)
        z = normal(sources, ()).double()
        perturbed = (t_cond + self.spread * t_cond**self.power * z).clamp(t_cond / 4, (3 + t_cond) / 4)
        full, other = _two_times(self.model, x, t, self.model.snap(perturbed).to(x.device), cond)
        # In the space of the network's own answer, as guidance usually is.
        mixed = {
            name: (1 + self.scale) * getattr(full, name) - self.scale * getattr(other, name) for name in ("x0", "eps")
        }
        return GuidedPrediction(mixed["x0"], mixed["eps"], full.level, {FULL: full})


def _digest(row: Tensor) -> int:
    """A state's own number, 64 bits: a model does not know which sample a row belongs to."""
    return int.from_bytes(hashlib.blake2b(row.float().cpu().numpy().tobytes(), digest_size=8).digest(), "big")


class NoiseLevelCorrected(Wrapped):
    """Noise level correction (NLC: Abuduweili et al., arXiv 2412.05488), for steps x_s = α_s x̂0 + σ_s ε̂, as DDIM's are.

    A state whose noise is (1 + r̂) σ, at the scale α of its scheduled time, is shown to the network at the time of the noise
    over signal (1 + r̂) σ/α, and scaled as a state of that time. x̂0 takes out that much noise, and the next state keeps the
    same share of it: ε̂ is (1 + r̂) times the network's answer. (The rule is that of `pred_denoise_base` in the authors' code.)

    The authors read r̂ by a head on the denoiser's own encoder. Here it is σ(t̂)/σ(t) - 1 of a level network's t̂. They also
    bring the answer to the norm √d, and keep the level within what the state's norm and the data's radius allow. Both are left
    out: the first without the second runs away where noise dwarfs the data. The fresh noise of a stochastic solver keeps the
    solver's own scale, theirs takes (1 + r̂) too.

    Args:
        model: is evaluated at the corrected time, once.
        effective_level: reads t̂, such as `EstimatedLevel`.
        interval: times between which it acts; the authors leave out the first twenty-fifth.
    """

    def __init__(
        self,
        model: Model,
        effective_level: EffectiveLevel,
        *,
        interval: tuple[float, float] = (0.0, 0.96),
    ):
        super().__init__(model)
        self.effective_level = effective_level
        self.interval = interval

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        low, high = self.interval
        if not low <= float(t.flatten()[0]) <= high:
            return self.model(x, t, cond)
        level = self.schedule(t.double()).like(x)
        noisier = self._noisier(x, t, cond, level)
        corrected = self.schedule.time_of_log_snr(
            2 * (level.alpha / (noisier * level.sigma)).double().log().flatten().cpu()
        )
        scale = self.schedule(corrected).like(x).alpha / level.alpha
        answer = self.model.predict(x * scale, self.model.snap(corrected).to(x.device), cond, (FULL,))[0]
        return _of_another_level(Prediction.from_eps(noisier * answer.eps, x, level))

    def _noisier(self, x: Tensor, t: Tensor, cond: Tensor | None, level: Level) -> Tensor:
        """1 + r̂ of every state (B, 1, …)."""
        effective = self.schedule(self.effective_level(x, t, cond).double()).like(x)
        return (effective.sigma / level.sigma).expand(len(x), *[1] * (x.ndim - 1))


def level_projection(
    update: Update, effective_level: EffectiveLevel, *, interval: tuple[float, float] = (0.0, 0.95)
) -> Update:
    """An update from states whose level is corrected: x ← α x̂0 + (x - α x̂0) σ_t/ρ̂, ρ̂ the effective noise scale [own].

    Nothing else changes and no call is added, so what it gains is due to the level alone.

    Args:
        update: goes on from the corrected state.
        effective_level: reads the level, such as `EstimatedLevel`.
        interval: times between which states are corrected.

    Returns:
        An update, for `sample`.
    """
    low, high = interval

    def projected(transition: Transition) -> Tensor:
        t = transition.step.t
        if not low <= float(t) <= high:
            return update(transition)
        x = transition.step.x
        prediction = transition.prediction
        level = transition.level
        effective = transition.model.schedule(effective_level(x, t, transition.cond).double()).like(x)
        eps = prediction.eps * (level.sigma / effective.sigma)
        right = Prediction(prediction.x0, eps, level)
        step = replace(transition.step, x=level.mix(right.x0, eps))
        return update(replace(transition, step=step, prediction=right))

    return projected


def wavelet_correction(update: Update, low: float, high: float = 0.0) -> Update:
    """Differential correction in the wavelet domain (DCW: Yu et al., arXiv 2604.16044, eqs. 18 and 20): after each step,
    LL ← LL + low (σ/σ₁) (LL - LL of x̂0), and each of LH, HL, HH likewise with high (1 - σ/σ₁).

    One level of the Haar transform; x̂0 is the step's own prediction, σ its level and σ₁ that of t = 1, as in the authors'
    `dcw_double`. Their second-order sampler takes x̂0 of the step's second evaluation, here it is that of its first.

    Args:
        update: makes the step.
        low: scale of the low band; its sign is the authors' (above 0 away from x̂0).
        high: scale of the three high bands.

    Returns:
        An update, for `sample`. It raises ValueError for states without an even height and width.
    """

    def corrected(transition: Transition) -> Tensor:
        x = update(transition)
        prediction = transition.prediction
        if x.ndim < 3 or x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError(f"DCW needs states of even height and width, these are {tuple(x.shape[1:])}: leave it out")
        away = haar((x - prediction.x0).double())
        most = float(transition.model.schedule(torch.tensor(1.0, dtype=torch.float64)).sigma)
        share = float(transition.level.sigma.flatten()[0]) / most
        scales = {"LL": low * share, **dict.fromkeys(("LH", "HL", "HH"), high * (1 - share))}
        return x + inverse_haar({name: scales[name] * part for name, part in away.items()}).to(x)

    return corrected


def closed_loop_scale(
    times: np.ndarray,
    sigma: np.ndarray,
    shift: np.ndarray,
    slope: np.ndarray,
    floor: np.ndarray,
    *,
    largest: float = 2.0,
) -> Scale:
    """The NAG scale, as a function of t, that would hold the shift of a pilot run at its detection floor [own].

    Where x0 is resolved, a perfect noise-unconditional branch gives d r/d log σ = w r for the relative noise excess
    r = δ σ̇/σ; without guidance r stays. So what a pilot run gains in r on the way down, -dr/d log σ, must be held:
    w = (dr / -d log σ) / r_floor.

    Args:
        times: (K,) falling.
        sigma: (K,) σ there.
        shift: (K,) δ of the pilot run.
        slope: (K,) σ̇.
        floor: (K,) the detection floor.
        largest: the scale stays between 0 and this.

    Returns:
        A function of t, or 0 where nothing can be read.
    """
    excess, least = shift * slope / sigma, floor * slope / sigma
    gain = np.diff(excess) / -np.diff(np.log(sigma))
    scale = np.clip(np.sign(excess[1:]) * gain / np.maximum(least[1:], 1e-12), 0, largest)
    middle = (times[1:] + times[:-1]) / 2
    known = np.isfinite(scale)
    if not known.any():
        return 0.0
    order = np.argsort(middle[known])
    at = middle[known][order]
    values = scale[known][order]
    return lambda t: float(np.interp(float(t), at, values))


def _conditioned_on(model: Model, x: Tensor, t: Tensor, t_cond: Tensor, cond: Tensor | None) -> Prediction:
    """The network's noise when conditioned on `t_cond` (B,), taken as its answer at t."""
    answer = model.predict(x, t_cond, cond, (FULL,))[0]
    level = model.schedule(t.double()).like(x)
    return _of_another_level(Prediction.from_eps(answer.eps, x, level))


def _of_another_level(prediction: Prediction) -> GuidedPrediction:
    """A prediction that is not what the network says of this state at this level."""
    return GuidedPrediction(prediction.x0, prediction.eps, prediction.level)


def _two_times(model: Model, x: Tensor, t: Tensor, other: Tensor, cond: Tensor | None) -> tuple[Prediction, Prediction]:
    """Predictions at t and at `other` (B,), in one batch."""
    rows = len(x)
    times = torch.cat([t.double().expand(rows).to(x.device), other.double().to(x.device)])
    both = model.predict(torch.cat([x, x]), times, None if cond is None else torch.cat([cond, cond]), (FULL,))[0]
    full, second = (
        Prediction(both.x0[part], both.eps[part], type(both.level)(*(value[part] for value in both.level)))
        for part in (slice(0, rows), slice(rows, None))
    )
    return full, second


def _mix_scores(x: Tensor, full: Prediction, other: Prediction, scale: float) -> Prediction:
    """(1 + scale) s - scale s_other at the full prediction's level, s_other at its own."""
    eps = (1 + scale) * full.eps - scale * (full.level.sigma / other.level.sigma) * other.eps
    return GuidedPrediction((x - full.level.sigma * eps) / full.level.alpha, eps, full.level, {FULL: full})
