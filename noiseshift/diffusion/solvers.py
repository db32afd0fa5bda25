"""Solvers by name: an update together with the times it is run at. Every solver is a constructor and has a word.

    Heun(25)                                                     heun:25
    DDIM(50, eta=0.5)                                            ddim:50:0.5
    Diffusers("DDIMScheduler", 13, timestep_spacing="linspace")  diffusers/DDIMScheduler:13,timestep_spacing=linspace

`solver(word)` reads a word; a solver's `name` is its word, which `solver` reads back to the same solver.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from noiseshift.diffusion import samplers
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled, Update
from noiseshift.diffusion.scheduler_solvers import Diffusers, Own, check_options
from noiseshift.diffusion.solving import MOST, Sampled, Solver
from noiseshift.diffusion.words import SOLVERS, number_in_words, options_of, scheduler_word, split

__all__ = [
    "CPS",
    "DDIM",
    "DDPM",
    "EDM",
    "MOST",
    "OURS",
    "Custom",
    "Diffusers",
    "Euler",
    "EulerMaruyama",
    "FlowSDE",
    "Heun",
    "Own",
    "Precise",
    "Sampled",
    "Solver",
    "bound",
    "describe",
    "scheduler_word",
    "solver",
]


class Euler(Solver):
    """First order in the probability-flow ODE: `euler:N`."""

    @property
    def name(self) -> str:
        return f"euler:{self.steps}"

    def update(self) -> Update:
        return samplers.euler

    def finer(self, factor: int) -> Solver:
        """The same equation in second order, which is further from the coarse one's bias than as many Euler steps."""
        return Heun(max(2, factor * self.steps // 2))

    def reference(self) -> Update:
        return samplers.heun


class Heun(Solver):
    """Second order (trapezoid), two evaluations per step: `heun:N`."""

    @property
    def order(self) -> int | None:
        return 2

    @property
    def name(self) -> str:
        return f"heun:{self.steps}"

    def update(self) -> Update:
        return samplers.heun

    def reference(self) -> Update:
        return samplers.heun


class EDM(Solver):
    """EDM's deterministic sampler at its own times, for variance-exploding models (arXiv 2206.00364, Alg. 1): `edm:N`."""

    @property
    def order(self) -> int | None:
        return 2

    @property
    def name(self) -> str:
        return f"edm:{self.steps}"

    def update(self) -> Update:
        return samplers.edm_heun

    def grid(self, model: Model) -> Tensor:
        return samplers.karras_grid(model, self.steps)

    def reference(self) -> Update:
        return samplers.edm_heun


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM (Song et al., arXiv 2010.02502): `ddim:N`, `ddim:N:ETA`. Raises ValueError for a negative eta.

    Attributes:
        steps: how many steps it takes, at least 2.
        eta: the share of the posterior's spread that is drawn anew; 0 is deterministic, 1 ancestral.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta must be at least 0 (0 is deterministic, 1 ancestral), got {self.eta}")

    @property
    def name(self) -> str:
        return f"ddim:{self.steps}" + (f":{number_in_words(self.eta)}" if self.eta else "")

    def update(self) -> Update:
        return samplers.ddim(self.eta)

    def reference(self) -> Update | None:
        return None if self.eta else samplers.heun


class DDPM(Solver):
    """DDPM's sampler: the exact posterior given the predicted x0: `ddpm:N`."""

    @property
    def name(self) -> str:
        return f"ddpm:{self.steps}"

    def update(self) -> Update:
        return samplers.ancestral


class EulerMaruyama(Solver):
    """First order in the reverse SDE with diffusion sigma (SiT, arXiv 2401.08740, eq. 7): `em:N`."""

    @property
    def name(self) -> str:
        return f"em:{self.steps}"

    def update(self) -> Update:
        return samplers.euler_maruyama()

    def reference(self) -> Update:
        return samplers.euler_maruyama()


@dataclass(frozen=True)
class FlowSDE(Solver):
    """The stochastic sampler that Flow-GRPO trains with (arXiv 2505.05470): `flow-sde:N,a=A`. See `samplers.flow_sde`.

    Attributes:
        steps: how many steps it takes, at least 2.
        a: how much noise is drawn, at least 0.
    """

    a: float = 0.7

    @property
    def order(self) -> int | None:
        return None if self.a else 1  # a², at most 1: the first step's noise, a² whatever the step, is forgotten slowly

    def __post_init__(self) -> None:
        super().__post_init__()
        samplers.flow_sde(self.a)

    @property
    def name(self) -> str:
        return f"flow-sde:{self.steps},a={number_in_words(self.a)}"

    def update(self) -> Update:
        return samplers.flow_sde(self.a)

    def reference(self) -> Update:
        return samplers.flow_sde(self.a)


@dataclass(frozen=True)
class CPS(Solver):
    """Coefficients-preserving sampling (arXiv 2509.05952): `cps:N`, `cps:N,eta=ETA`. See `samplers.coefficients_preserving`.

    It has no order: finer steps do not lead to the data's distribution.

    Attributes:
        steps: how many steps it takes, at least 2.
        eta: the share of noise that is drawn anew, in [0, 1].
    """

    eta: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        samplers.coefficients_preserving(self.eta)

    @property
    def order(self) -> int | None:
        return None if self.eta else 1

    @property
    def name(self) -> str:
        return f"cps:{self.steps}" + (f",eta={number_in_words(self.eta)}" if self.eta != CPS.eta else "")

    def update(self) -> Update:
        return samplers.coefficients_preserving(self.eta)

    def reference(self) -> Update | None:
        return None if self.eta else samplers.heun


@dataclass(frozen=True)
class Precise(Solver):
    """The exact step of a diffusion for a prediction that is held (arXiv 2605.23522): `precise:N`, `precise:N,eta=ETA`. See
    `samplers.precise`.

    Attributes:
        steps: how many steps it takes, at least 2.
        eta: how much noise is drawn, at least 0.
    """

    eta: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        samplers.precise(self.eta)

    @property
    def name(self) -> str:
        return f"precise:{self.steps}" + (f",eta={number_in_words(self.eta)}" if self.eta != Precise.eta else "")

    def update(self) -> Update:
        return samplers.precise(self.eta)

    def reference(self) -> Update | None:
        return None if self.eta else samplers.heun


@dataclass(frozen=True)
class Custom(Solver):
    """An update of one's own. Its word says only what it is called: `solver` does not read it back.

    Attributes:
        steps: how many steps it takes, at least 2.
        label: what it is called in tables.
        make: makes a fresh update.
        times: its times on a model; even in t, `steps` of them, where None is given.
        towards: makes the update whose fine run it converges to, where there is one.
    """

    label: str
    make: Callable[[], Update | Scheduled]
    times: Callable[[Model], Tensor | None] | None = None
    towards: Callable[[], Update] | None = None

    @property
    def name(self) -> str:
        return self.label

    def update(self) -> Update | Scheduled:
        return self.make()

    @property
    def order(self) -> int | None:
        return None

    def finer(self, factor: int) -> None:
        return None

    def grid(self, model: Model) -> Tensor | None:
        return super().grid(model) if self.times is None else self.times(model)

    def reference(self) -> Update | None:
        return None if self.towards is None else self.towards()


OURS: Mapping[str, type[Solver]] = {"euler": Euler, "heun": Heun, "edm": EDM, "ddpm": DDPM, "em": EulerMaruyama}


def solver(word: str | Solver) -> Solver:
    """The solver that a word names; a solver itself is handed back.

    Args:
        word: NAME:STEPS, one of `words.SOLVERS`.

    Raises:
        ValueError: for a word that names none, in one line that says what exists.
    """
    if isinstance(word, Solver):
        return word
    head, *settings = split(word)
    name, *numbers = head.split(":")
    try:
        steps, *rest = int(numbers[0]), *map(float, numbers[1:])
    except (IndexError, ValueError):
        raise ValueError(f"{word!r} is no sampler: write NAME:STEPS, one of {SOLVERS}") from None
    kind, _, inner = name.partition("/")
    if kind == "diffusers" and not rest:
        options = options_of(word, settings)
        check_options(inner, options)
        return Diffusers(inner, steps, **options)
    if name in WITH_OPTIONS and not rest:
        return _with_options(word, WITH_OPTIONS[name], steps, options_of(word, settings))
    if settings:
        raise ValueError(f"{word!r}: none but diffusers/SCHEDULER:N, flow-sde:N, cps:N and precise:N takes options")
    if kind == "own" and not rest:
        return Own(steps, inner)
    if name == "ddim" and len(rest) <= 1:
        return DDIM(steps, *rest)
    if name not in OURS or rest:
        raise ValueError(f"{word!r} is no sampler: choose from {SOLVERS}")
    return OURS[name](steps)


WITH_OPTIONS: Mapping[str, type[Solver]] = {"flow-sde": FlowSDE, "cps": CPS, "precise": Precise}


def _with_options(word: str, kind: type[Solver], steps: int, options: Mapping[str, Any]) -> Solver:
    known = [name for name in inspect.signature(kind).parameters if name != "steps"]
    wrong = [name for name, value in options.items() if name not in known or type(value) not in (int, float)]
    if wrong:
        raise ValueError(f"{word!r}: {wrong[0]} is no number that it takes: write {known[0]}=NUMBER")
    return kind(steps, **{name: float(value) for name, value in options.items()})


def bound(solver: Solver, checkpoint: Sampled) -> Solver:
    """The solver with what it takes from a checkpoint: `own:N` its folder's scheduler. Raises ValueError where there is none.

    Args:
        solver: any.
        checkpoint: what is sampled.
    """
    return solver.bound(checkpoint)


def describe(solver: Solver, model: Model) -> dict[str, Any]:
    """What decides a solver's states on a model, in plain values: its word, and the hashes of its times and its update, a
    scheduler's with its configuration and tables.

    Args:
        solver: bound to its checkpoint.
        model: what is sampled; it decides the times.
    """
    grid = solver.grid(model)
    return {
        "word": solver.name,
        "steps": solver.steps,
        "times": None if grid is None else identity(grid),
        "update": identity(solver.update()),
    }
