"""The level from the size of the predicted noise, which the sampler has already computed.

u = ‖eps_hat(x, t)‖ / √d on real states of level s, at conditioning time t, is a smooth monotone function of s near t;
where the noise is resolved it is s/t, a straight line. The line is fitted once on real data for every conditioning time;
while sampling, u is read off the step's own prediction, at no network call.
Ning et al. (ADM-ES, arXiv 2308.15321) compare the same norms; this turns them into a level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noiseshift.diffusion.models import FULL, GuidedPrediction, Model, Prediction, as_time
from noiseshift.estimators.instrument import place
from noiseshift.estimators.posterior import Posterior, time_grid

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step


class Residual:
    """Posterior over t from the rms of the predicted noise, for the conditioning times it was fitted at.

    Calling it needs the `step`, for its conditioning time; a step without a prediction costs one forward. A step at a time
    that was not fitted raises ValueError.

    Args:
        model: the network whose predictions are read.
        data: (N, …) real samples, for the fit.
        times: (K,) the conditioning times of the sampler.
        generator: draws the noise of the fit.
        cond: (N,) classes of the samples, or None.
    """

    def __init__(
        self, model: Model, data: Tensor, times: Tensor, *, generator: torch.Generator, cond: Tensor | None = None
    ):
        self.model = model
        self.schedule = model.schedule
        self.times = time_grid(model.schedule)
        self.fitted_times = times.double().cpu()
        fits = [self._fit(data, cond, t, generator) for t in self.fitted_times]
        self.level, self.slope, self.spread = torch.tensor(fits, dtype=torch.float64).reshape(-1, 3).T

    @classmethod
    def of_fit(cls, model: Model, times: Tensor, fit: Tensor) -> Residual:
        """One that was fitted before, at times (K,): (3, K) float64 level, slope and spread of the fit, as `fit` has them.

        Args:
            model: whose predictions it reads.
            times: (K,).
            fit: (3, K).
        """
        made = cls(model, torch.zeros(0), times[:0], generator=torch.Generator())
        made.fitted_times = times.double().cpu()
        made.level, made.slope, made.spread = fit
        return made

    @property
    def fit(self) -> Tensor:
        """(3, K) float64: at each time the mean of ‖eps_hat‖/√d on real states, its slope in their level, and its spread."""
        return torch.stack([self.level, self.slope, self.spread])

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        if step is None:
            raise ValueError("the residual estimator needs the step that the states came from: pass step=…")
        return self.posterior(statistic(answered(self.model, step, x, cond)), step.t)

    def posterior(self, value: Tensor, t: Tensor) -> Posterior:
        """From the statistic (B,) of states at conditioning time t: what a tap on a running sampler has kept.

        Args:
            value: (B,) what `statistic` gives: the rms of each predicted noise.
            t: (), one of the times that were fitted.
        """
        k = self._index(t)
        read = self.fitted_times[k] + (value.cpu() - self.level[k]) / self.slope[k]
        width = (self.spread[k] / self.slope[k]).abs().clamp_min(1e-4)
        return Posterior.from_log_density(self.times, -0.5 * ((self.times - read[:, None]) / width) ** 2)

    def _index(self, t: Tensor) -> int:
        k = place(self.fitted_times.numpy(), t)
        if k is None:
            raise ValueError(
                f"the residual estimator was not fitted at t = {float(t):.4f}: fit it at the sampler's times"
            )
        return k

    @torch.inference_mode()
    def _fit(
        self, data: Tensor, cond: Tensor | None, t: Tensor, generator: torch.Generator
    ) -> tuple[float, float, float]:
        """Mean of u at level t, its slope in the level, and its spread, from states a little below and above t."""
        reach = float(torch.minimum(t, 1 - t).clamp_min(2e-3)) / 4
        eps = torch.randn(data.shape, generator=generator).to(data)
        read = []
        for s in (float(t) - reach, float(t) + reach):
            x = self.schedule(torch.tensor(s)).mix(data, eps)
            parts = [
                statistic(
                    self.model.predict(rows, as_time(t, x), None if cond is None else cond[i : i + len(rows)], (FULL,))[
                        0
                    ]
                )
                for i, rows in zip(range(0, len(x), 256), x.split(256), strict=True)
            ]
            read.append(torch.cat(parts))
        low, high = (part.cpu() for part in read)
        slope, spread = float((high - low).mean()) / (2 * reach), float(((low + high) / 2).std())
        if slope == 0 and spread == 0:
            raise ValueError(
                f"the network predicts noise of one size for every state around t = {float(t):.4f}: no level can be read from it; "
                "it learned nothing, or its weights are another network's"
            )
        return float((low + high).mean()) / 2, slope, spread


def statistic(prediction: Prediction) -> Tensor:
    """(B,) ‖eps_hat‖/√d in float64 on its own device, of the unguided branch: a guided prediction is no conditional expectation.

    Raises ValueError where the prediction does not hold it.
    """
    own = plain(prediction)
    if own is None:
        raise ValueError("this prediction is of another level than its state's: ask the network itself")
    return own.eps.flatten(1).double().square().mean(-1).sqrt()


def answered(model: Model, step: Step, x: Tensor, cond: Tensor | None) -> Prediction:
    """What the network says of states x at a step's time: the step's own prediction, without guidance, where it has that.

    Args:
        model: is asked where the step cannot say.
        step: with its time, and its prediction or None.
        x: (B, …) states.
        cond: (B,) classes, or None.
    """
    found = None if step.prediction is None else plain(step.prediction)
    return found or model.predict(x, as_time(step.t, x), cond, (FULL,))[0]


def plain(prediction: Prediction) -> Prediction | None:
    """The unguided branch of a guided prediction, None where it has none; any other as it is."""
    return prediction.unguided if isinstance(prediction, GuidedPrediction) else prediction
