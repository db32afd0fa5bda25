"""Predictions: what a network says about a state at a level, in one canonical pair.

For a fixed (x, t) every parametrisation is an affine map of every other, so a `Prediction` stores (x0, eps) and
derives the rest. A `Branch` names which conditions a prediction knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from noiseshift.diffusion.schedules import Level

Predicts = Literal["velocity", "epsilon", "x0", "score", "v_prediction"]


@dataclass(frozen=True)
class Prediction:
    """The pair (x0, eps) with x = alpha x0 + sigma eps, the one form through which all others are converted.

    Attributes:
        x0: predicted data (B, …).
        eps: predicted noise, of that shape.
        level: alpha, sigma and their slopes, broadcast to that shape.
    """

    x0: Tensor
    eps: Tensor
    level: Level

    @classmethod
    def from_x0(cls, value: Tensor, x: Tensor, level: Level) -> Prediction:
        """From a denoiser's output. Raises ValueError where sigma is 0: the noise is lost there.

        Args:
            value: (B, …) predicted data.
            x: (B, …) the state.
            level: alpha and sigma at its conditioning time.
        """
        level = level.like(x)
        require_some(level.sigma, "sigma is 0 at this time, where x0 says nothing of the noise: evaluate at t > 0")
        return cls(value, (x - level.alpha * value) / level.sigma, level)

    @classmethod
    def from_eps(cls, value: Tensor, x: Tensor, level: Level) -> Prediction:
        """From a noise prediction. Raises ValueError where alpha is 0: the data are lost there.

        Args:
            value: (B, …) predicted noise.
            x: (B, …) the state.
            level: alpha and sigma at its conditioning time.
        """
        level = level.like(x)
        require_some(
            level.alpha, "alpha is 0 at this time, where noise and score say nothing of the data: evaluate at t < 1"
        )
        return cls((x - level.sigma * value) / level.alpha, value, level)

    @classmethod
    def from_velocity(cls, value: Tensor, x: Tensor, level: Level) -> Prediction:
        """From v = dalpha x0 + dsigma eps; regular at both ends of a flow.

        Args:
            value: (B, …) the predicted slope of the path, in t.
            x: (B, …) the state.
            level: alpha, sigma and their slopes at its conditioning time.
        """
        alpha, sigma, dalpha, dsigma = level = level.like(x)
        wronskian = alpha * dsigma - sigma * dalpha
        return cls((dsigma * x - sigma * value) / wronskian, (alpha * value - dalpha * x) / wronskian, level)

    @classmethod
    def from_score(cls, value: Tensor, x: Tensor, level: Level) -> Prediction:
        """From the score s = -eps / sigma. Raises ValueError where alpha or sigma is 0.

        Args:
            value: (B, …) the predicted gradient of log p(x_t) in x.
            x: (B, …) the state.
            level: alpha and sigma at its conditioning time.
        """
        require_some(level.sigma, "sigma is 0 at this time, where a score is infinite: evaluate at t > 0")
        return cls.from_eps(-level.like(x).sigma * value, x, level)

    @classmethod
    def from_v(cls, value: Tensor, x: Tensor, level: Level) -> Prediction:
        """From v = (alpha eps - sigma x0) / sqrt(alpha² + sigma²) (Salimans & Ho, arXiv 2202.00512); regular at both ends.

        Args:
            value: (B, …) the predicted v.
            x: (B, …) the state.
            level: alpha and sigma at its conditioning time.
        """
        level = level.like(x)
        norm = (level.alpha**2 + level.sigma**2).sqrt()
        alpha, sigma = level.alpha / norm, level.sigma / norm
        return cls(alpha * x / norm - sigma * value, sigma * x / norm + alpha * value, level)

    @property
    def velocity(self) -> Tensor:
        """dalpha x0 + dsigma eps, the slope of the path in t."""
        return self.level.dalpha * self.x0 + self.level.dsigma * self.eps

    @property
    def score(self) -> Tensor:
        """-eps / sigma. Raises ValueError where sigma is 0."""
        require_some(self.level.sigma, "sigma is 0 at this time, where a score is infinite: evaluate at t > 0")
        return -self.eps / self.level.sigma

    @property
    def v(self) -> Tensor:
        """(alpha eps - sigma x0) / sqrt(alpha² + sigma²), as `from_v` takes it."""
        alpha, sigma = self.level.alpha, self.level.sigma
        return (alpha * self.eps - sigma * self.x0) / (alpha**2 + sigma**2).sqrt()


_NOTHING = 1e-9
"""An alpha or sigma that is none: dividing by it leaves only rounding. A zero-terminal-SNR table's last alpha is 1e-10."""


def require_some(scale: Tensor, sentence: str) -> None:
    """Raise ValueError with `sentence` where an alpha or sigma (any shape) is 0, but for rounding.

    Args:
        scale: an alpha or a sigma.
        sentence: what the error says.
    """
    if bool((scale < _NOTHING).any()):
        raise ValueError(sentence)


READ: Mapping[Predicts, Callable[[Tensor, Tensor, Level], Prediction]] = {
    "velocity": Prediction.from_velocity,
    "epsilon": Prediction.from_eps,
    "x0": Prediction.from_x0,
    "score": Prediction.from_score,
    "v_prediction": Prediction.from_v,
}


@dataclass(frozen=True)
class GuidedPrediction(Prediction):
    """A mixture of branches; estimators take `unguided`.

    Attributes:
        branches: the predictions that it was mixed from; empty where the network was asked about another state or level.
    """

    branches: Mapping[Branch, Prediction] = field(default_factory=dict)

    @property
    def unguided(self) -> Prediction | None:
        """What the network itself says of the state at its conditioning time; None where it was not asked that."""
        return self.branches.get(FULL)


class Branch(NamedTuple):
    """Which conditions a prediction has.

    Attributes:
        noise: whether it is conditioned on the noise level.
        condition: whether it is conditioned on the class.
        model: 0 is the model itself, k the k-th other model of a guidance.
    """

    noise: bool = True
    condition: bool = True
    model: int = 0


FULL = Branch()


NOISE_UNCONDITIONAL = Branch(noise=False)


UNCONDITIONAL = Branch(condition=False)
