"""Solvers by name: an update together with the times it is run at. Every solver is a constructor and has a word.

    Heun(25)                                                     heun:25
    DDIM(50, eta=0.5)                                            ddim:50:0.5
    Diffusers("DDIMScheduler", 13, timestep_spacing="linspace")  diffusers/DDIMScheduler:13,timestep_spacing=linspace

`solver(word)` reads a word; a solver's `name` is its word, which `solver` reads back to the same solver.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from noiseshift.diffusion import samplers, schedulers
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled, Update
from noiseshift.diffusion.schedules import Schedule

WORDS = (
    "euler:N, heun:N, edm:N (variance-exploding models), ddim:N, ddim:N:ETA, ddpm:N, em:N, "
    "flow-sde:N[,a=A], cps:N[,eta=ETA], diffusers/SCHEDULER:N[,OPTION=VALUE,...], own:N (a diffusers folder's)"
)


MOST = 100_000
"""Most steps of a sampler: a hundred times the finest table of levels."""


class Sampled(Protocol):
    """What a solver may be bound to: a checkpoint, whose folder may bring a sampler of its own.

    Attributes:
        model: the model that is sampled.
        sampler: makes the sampler of n steps that the folder's pipeline takes, or None.
        card: what is known of the checkpoint; its `provenance` names the folder's scheduler.
    """

    @property
    def model(self) -> Model: ...

    @property
    def sampler(self) -> Callable[[int], Scheduled] | None: ...

    @property
    def card(self) -> Any: ...


@dataclass(frozen=True)
class Solver:
    """An update and the times it is run at; see the constructors below.

    Raises ValueError for fewer than 2 steps or more than `MOST`.

    Attributes:
        steps: how many steps it takes from noise to data, at least 2: else there is no state between the two.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(
                f"{self.name!r}: take at least 2 steps, or there is no state between noise and data to read"
            )
        if self.steps > MOST:
            raise ValueError(f"{self.steps:g} steps are more than any sampler takes: give at most {MOST:,}")

    @property
    def name(self) -> str:
        """Its word."""
        raise NotImplementedError

    def update(self) -> Update | Scheduled:
        """A fresh update: some keep a history."""
        raise NotImplementedError

    def grid(self, model: Model) -> Tensor | None:
        """Its times on a model, (N,) float64 falling from 1 to 0, or None where the update brings its own."""
        return samplers.time_grid(model, self.steps)

    @property
    def order(self) -> int | None:
        """Its weak order: its error falls as steps^-order. None where it is not known."""
        return 1

    def reference(self) -> Update | None:
        """The update whose fine run from the same noise it converges to, or None where there is none."""
        return None

    def finer(self, factor: int) -> Solver | None:
        """A solver of the same final samples, for `factor` times the network calls; None where none is known. Raises ValueError
        where it cannot take so many steps."""
        return replace(self, steps=factor * self.steps)

    def bound(self, checkpoint: Sampled) -> Solver:
        """The solver with what it takes from a checkpoint; itself where that is nothing."""
        return self


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
        return f"ddim:{self.steps}" + (f":{_number(self.eta)}" if self.eta else "")

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
        return f"flow-sde:{self.steps},a={_number(self.a)}"

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
        return f"cps:{self.steps}" + (f",eta={_number(self.eta)}" if self.eta != CPS.eta else "")

    def update(self) -> Update:
        return samplers.coefficients_preserving(self.eta)

    def reference(self) -> Update | None:
        return None if self.eta else samplers.heun


@dataclass(frozen=True, init=False)
class Diffusers(Solver):
    """A scheduler of diffusers, at its own times: `diffusers/SCHEDULER:N,option=value,...`.

    Args:
        scheduler: the class's name, such as "EulerDiscreteScheduler".
        steps: what its `set_timesteps` is given, at least 2.
        options: what its constructor takes, such as use_karras_sigmas=True. Where they name no betas, the table is the
            checkpoint's once it is `bound`; else that of the schedule on which it runs. States are not clipped unless an
            option says so.

    Raises ValueError for a scheduler that diffusers does not have or that cannot be followed, an option that it does not
    take, and a value that it refuses.
    """

    scheduler: str
    options: Mapping[str, Any]

    def __init__(self, scheduler: str, steps: int, **options: Any):
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "scheduler", scheduler)
        object.__setattr__(self, "options", _plain(scheduler, options))
        self.__post_init__()
        _check_options(scheduler, options)
        try:
            self.update()
        except Exception as error:  # diffusers raises many kinds for values that it does not take
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"{self.name!r}: {reason}") from None

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def order(self) -> int | None:
        return None

    @property
    def name(self) -> str:
        settings = [f"{key}={_value_in_words(value)}" for key, value in self.options.items()]
        return ",".join([f"diffusers/{self.scheduler}:{self.steps}", *settings])

    def update(self) -> Scheduled:
        return schedulers.Following(self.scheduler, self.steps, self.options)

    def finer(self, factor: int) -> Solver:
        return Diffusers(self.scheduler, factor * self.steps, **self.options)

    def bound(self, checkpoint: Sampled) -> Solver:
        own = None if checkpoint.sampler is None else checkpoint.sampler(self.steps)
        return _OfCheckpoint(
            self.scheduler,
            self.steps,
            self.options,
            checkpoint.model.schedule,
            None if own is None else dict(own.scheduler.config),
            {} if own is None else {key: value for key, value in own.timing.items() if key == "mu"},
        )

    def grid(self, model: Model) -> None:
        return None


class _OfCheckpoint(Diffusers):
    """A `Diffusers` with a checkpoint's own table, or the configuration of its folder's scheduler."""

    def __init__(
        self,
        scheduler: str,
        steps: int,
        options: Mapping[str, Any],
        schedule: Schedule,
        config: Mapping[str, Any] | None,
        timing: Mapping[str, Any],
    ):
        for name, value in (("schedule", schedule), ("config", config), ("timing", timing)):
            object.__setattr__(self, name, value)
        super().__init__(scheduler, steps, **options)

    def update(self) -> Scheduled:
        given: Any = vars(self)
        return schedulers.make(
            self.scheduler,
            self.steps,
            self.options,
            schedule=given["schedule"],
            config=given["config"],
            timing=given["timing"],
        )

    def bound(self, checkpoint: Sampled) -> Solver:
        return Diffusers(self.scheduler, self.steps, **self.options).bound(checkpoint)


@dataclass(frozen=True)
class Own(Solver):
    """The sampler of a diffusers folder's own pipeline, at the pipeline's own times: `own:N`, `own/SCHEDULER:N`.

    `bound` to the folder it knows its scheduler, and says it in its word.

    Attributes:
        steps: how many steps it takes, at least 2.
        scheduler: the class of the folder's scheduler, empty before it is bound; one that is named must be the folder's.
        make: makes the sampler of so many steps; None before it is bound.
    """

    scheduler: str = ""
    make: Callable[[int], Scheduled] | None = field(default=None, compare=False, repr=False)

    @property
    def order(self) -> int | None:
        return None

    @property
    def name(self) -> str:
        return f"own/{self.scheduler}:{self.steps}" if self.scheduler else f"own:{self.steps}"

    def update(self) -> Scheduled:
        if self.make is None:
            raise ValueError(NO_OWN)
        return self.make(self.steps)

    def grid(self, model: Model) -> None:
        return None

    def bound(self, checkpoint: Sampled) -> Own:
        if checkpoint.sampler is None:
            raise ValueError(NO_OWN)
        kind = str(checkpoint.card.provenance["scheduler"])
        if self.scheduler not in ("", kind):
            raise ValueError(f"{self.name!r}: the folder's own scheduler is {kind}: write own:{self.steps}")
        return replace(self, scheduler=kind, make=checkpoint.sampler)


NO_OWN = "own:N is the sampler of a diffusers folder's pipeline: name another one, such as ddim:50"


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
        word: NAME:STEPS, one of `WORDS`.

    Raises:
        ValueError: for a word that names none, in one line that says what exists.
    """
    if isinstance(word, Solver):
        return word
    head, *settings = _split(word)
    name, *numbers = head.split(":")
    try:
        steps, *rest = int(numbers[0]), *map(float, numbers[1:])
    except (IndexError, ValueError):
        raise ValueError(f"{word!r} is no sampler: write NAME:STEPS, one of {WORDS}") from None
    kind, _, inner = name.partition("/")
    if kind == "diffusers" and not rest:
        options = _options(word, settings)
        _check_options(inner, options)
        return Diffusers(inner, steps, **options)
    if name in WITH_OPTIONS and not rest:
        return _with_options(word, WITH_OPTIONS[name], steps, _options(word, settings))
    if settings:
        raise ValueError(f"{word!r}: none but diffusers/SCHEDULER:N, flow-sde:N and cps:N takes options")
    if kind == "own" and not rest:
        return Own(steps, inner)
    if name == "ddim" and len(rest) <= 1:
        return DDIM(steps, *rest)
    if name not in OURS or rest:
        raise ValueError(f"{word!r} is no sampler: choose from {WORDS}")
    return OURS[name](steps)


WITH_OPTIONS: Mapping[str, type[Solver]] = {"flow-sde": FlowSDE, "cps": CPS}


def _with_options(word: str, kind: type[Solver], steps: int, options: Mapping[str, Any]) -> Solver:
    known = [name for name in inspect.signature(kind).parameters if name != "steps"]
    wrong = [name for name, value in options.items() if name not in known or type(value) not in (int, float)]
    if wrong:
        raise ValueError(f"{word!r}: {wrong[0]} is no number that it takes: write {known[0]}=NUMBER")
    return kind(steps, **{name: float(value) for name, value in options.items()})


def scheduler_word(word: str) -> tuple[str, int | None, dict[str, Any]]:
    """A scheduler of diffusers as `diffusers/SCHEDULER[:N][,option=value,...]` names it: its class, steps if any, options.

    Raises:
        ValueError: for another word, in one line.
    """
    head, *settings = _split(word)
    found = re.fullmatch(r"diffusers/(\w+)(?::(\d{1,9}))?", head)
    if found is None:
        raise ValueError(f"{word!r} names no scheduler: write diffusers/SCHEDULER[:STEPS][,option=value,...]")
    return found[1], int(found[2]) if found[2] else None, _options(word, settings)


def bound(solver: Solver, checkpoint: Sampled) -> Solver:
    """The solver with what it takes from a checkpoint: `own:N` its folder's scheduler. Raises ValueError where there is none."""
    return solver.bound(checkpoint)


def describe(solver: Solver, model: Model) -> dict[str, Any]:
    """What decides a solver's states on a model, in plain values: its word, and the hashes of its times and its update, a
    scheduler's with its configuration and tables."""
    grid = solver.grid(model)
    return {
        "word": solver.name,
        "steps": solver.steps,
        "times": None if grid is None else identity(grid),
        "update": identity(solver.update()),
    }


def _split(word: str) -> list[str]:
    """A word at its commas; those inside brackets and quotes belong to a value."""
    return re.findall(r"(?:\[[^\]]*\]|\"[^\"]*\"|[^,])+", word) or [word]


def _options(word: str, settings: Sequence[str]) -> dict[str, Any]:
    """`timestep_spacing=linspace`, … → {"timestep_spacing": "linspace"}."""
    pairs = [setting.partition("=") for setting in settings]
    if re.search(r",\s*(,|$)", word) or not all(name.strip().isidentifier() and equals for name, equals, _ in pairs):
        raise ValueError(f"{word!r}: write options as name=value, joined by commas")
    names = [name.strip() for name, *_ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{word!r}: an option is given twice")
    return {name: _value(text.strip()) for name, (*_, text) in zip(names, pairs, strict=True)}


_PYTHON = {"True": True, "False": False, "None": None}


def _value(text: str) -> Any:
    """A number, true, false, null or a list, as JSON or Python writes them; anything else is a text."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of too many digits, or too deep
        return text


def _value_in_words(value: Any) -> str:
    """What `_value` reads as `value`."""
    plain = isinstance(value, str) and _value(value) == value and not set(value) & set(',[]"= ')
    return value if plain else json.dumps(value, separators=(",", ":"))


def _plain(scheduler: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a word writes them, in one order."""
    try:
        return {name: json.loads(json.dumps(options[name])) for name in sorted(options)}
    except (TypeError, ValueError):
        raise ValueError(f"options of {scheduler} are numbers, texts, true, false, null or lists of these") from None


def _check_options(scheduler: str, options: Mapping[str, Any]) -> None:
    known = _parameters(_scheduler_class(scheduler))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{scheduler} has no option {', '.join(unknown)}: choose from {', '.join(known)}")


def _parameters(kind: type) -> list[str]:
    """What a scheduler's constructor takes by name."""
    every = inspect.signature(kind).parameters.values()
    return [p.name for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _scheduler_class(name: str) -> Any:
    diffusers = importlib.import_module("diffusers")
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not isinstance(kind, type):
        raise ValueError(f"diffusers has no scheduler {name!r}: write for example diffusers/DDIMScheduler:50")
    return kind


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
