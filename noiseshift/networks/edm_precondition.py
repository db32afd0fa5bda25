"""EDM's four preconditioners: a raw network F becomes a denoiser D(x; sigma) of states x0 + sigma eps (arXiv 2206.00364, table 1).

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)

They differ in how a network was trained before: by EDM itself, or as a variance-preserving, variance-exploding or iDDPM model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST, MOST = 0.002, 80.0
"""The noise scales that EDM samples between, whatever more a network knows."""


class Scales(NamedTuple):
    """The four factors at a noise scale, of its shape.

    Attributes:
        skip: c_skip, of the state in the answer.
        out: c_out, of the network in the answer.
        into: c_in, of the state that the network is given.
        noise: c_noise, the number that the network is conditioned on.
    """

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


class Preconditioned(nn.Module, ABC):
    """Called as `NetworkModel` calls its networks: (x, sigma (B,), label (B,) with `classes` for none, known) → x̂0.

    `sigmas` are the noise scales from the least to the largest that the network was trained at, `levels` (K,) the only
    ones that it knows, ascending, None for a continuum.

    Args:
        model: F, called with c_in x (B, C, H, W), c_noise (B,) and a one-hot label (B, classes) or None.
        classes: How many, 0 for an unconditional one. The label of none is a row of zeros.
    """

    sigmas: tuple[float, float]
    levels: Tensor | None = None

    def __init__(self, model: nn.Module, classes: int = 0):
        super().__init__()
        self.model = model
        self.classes = classes

    @abstractmethod
    def scales(self, sigma: Tensor) -> Scales:
        """The factors at sigma (B,)."""

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor, known: Tensor) -> Tensor:
        scales = self.scales(sigma)
        skip, out, into = (part.to(x)[:, None, None, None] for part in scales[:3])
        one_hot = F.one_hot(label, self.classes + 1)[:, : self.classes].to(x) if self.classes else None
        answer = self.model(into * x, scales.noise.to(x), one_hot)
        return skip * x + out * answer[:, : x.shape[1]]


class Edm(Preconditioned):
    """Trained by EDM.

    Args:
        model: F of `Preconditioned`.
        classes: How many, 0 for an unconditional one.
        sigma_data: Standard deviation of the data.
        sigma_min: Least noise scale, where it is above 0.002.
        sigma_max: Largest noise scale, where it is below 80.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int = 0,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ):
        super().__init__(model, classes)
        self.sigma_data = sigma_data
        self.sigmas = (max(LEAST, sigma_min), min(MOST, sigma_max))

    def scales(self, sigma: Tensor) -> Scales:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return Scales(self.sigma_data**2 / total**2, sigma * self.sigma_data / total, 1 / total, sigma.log() / 4)


class VariancePreserved(Preconditioned):
    """Trained on Song's variance-preserving path (arXiv 2011.13456), conditioned on (steps - 1) t for t from epsilon_t to 1.

    Args:
        model: F of `Preconditioned`.
        classes: How many, 0 for an unconditional one.
        beta_d: Slope of beta(t) = beta_min + beta_d t.
        beta_min: beta at t = 0.
        steps: M of the paper, which scales the time.
        epsilon_t: The least time.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int = 0,
        *,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        steps: float = 1000,
        epsilon_t: float = 1e-5,
    ):
        super().__init__(model, classes)
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.last = steps - 1
        self.sigmas = (self._sigma(epsilon_t), self._sigma(1.0))

    def _sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(self.beta_d * t**2 / 2 + self.beta_min * t))

    def scales(self, sigma: Tensor) -> Scales:
        # Twice the root of beta_d t²/2 + beta_min t = log(1 + sigma²), without a small difference.
        grown = (sigma**2).log1p()
        t = 2 * grown / (self.beta_min + (self.beta_min**2 + 2 * self.beta_d * grown).sqrt())
        return Scales(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), self.last * t)


class VarianceExploded(Preconditioned):
    """Trained on Song's variance-exploding path, conditioned on log(sigma / 2).

    Args:
        model: F of `Preconditioned`.
        classes: How many, 0 for an unconditional one.
        sigma_min: Least noise scale.
        sigma_max: Largest noise scale.
    """

    def __init__(self, model: nn.Module, classes: int = 0, *, sigma_min: float = 0.02, sigma_max: float = 100.0):
        super().__init__(model, classes)
        self.sigmas = (sigma_min, sigma_max)

    def scales(self, sigma: Tensor) -> Scales:
        one = torch.ones_like(sigma)
        return Scales(one, sigma, one, (sigma / 2).log())


class ImprovedDdpm(Preconditioned):
    """Trained as iDDPM (Nichol & Dhariwal, arXiv 2102.09672) on its cosine schedule, at `steps` levels and no others.

    Its largest level is 20,000 times the data's scale, where nothing is left to tell apart: sampling starts at the one next
    to 80, the ninth, as EDM does (arXiv 2206.00364, table 1: j0 = 8).

    Args:
        model: F of `Preconditioned`.
        classes: How many, 0 for an unconditional one.
        c_1: Least factor by which a step multiplies alpha² of the variance-preserving path.
        c_2: Offset of the cosine, s of the paper.
        steps: Number of levels.
    """

    table: Tensor

    def __init__(
        self, model: nn.Module, classes: int = 0, *, c_1: float = 0.001, c_2: float = 0.008, steps: float = 1000
    ):
        super().__init__(model, classes)
        steps = int(steps)
        squares = [0.0]  # sigma², from data to noise; a step never keeps less than c_1 of the signal
        cumulative = [math.sin(0.5 * math.pi * j / steps / (c_2 + 1)) ** 2 for j in range(steps + 1)]
        for before, now in zip(cumulative[-2::-1], cumulative[:0:-1], strict=True):
            squares.append((squares[-1] + 1) / max(before / now, c_1) - 1)
        table = torch.tensor(squares, dtype=torch.float64).sqrt()
        self.register_buffer("table", table, persistent=False)
        self.levels = table[1:]
        top = int((table[1:] - MOST).abs().argmin())
        self.sigmas = (float(self.levels[0]), float(self.levels[top]))

    def scales(self, sigma: Tensor) -> Scales:
        nearest = (sigma.double()[:, None] - self.table.double()).abs().argmin(1)
        return Scales(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), (nearest - 1).to(sigma.dtype))
