"""Corrections by name: what each does to the model it samples with, and to the sampler's update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from noiseshift.correction.alternatives import (
    EpsilonScaled,
    LevelGuidance,
    NoiseLevelCorrected,
    ScoreRescaled,
    TimeShifted,
    TimeStepGuidance,
    closed_loop_scale,
    level_projection,
    wavelet_correction,
)
from noiseshift.diffusion import guidance as guidances
from noiseshift.diffusion.guidance import (
    BranchSpace,
    EffectiveLevel,
    classifier_free,
    classifier_noise_awareness,
    noise_awareness,
)
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import Guidance, Guided, LogProb, Model, Predicts
from noiseshift.diffusion.samplers import Update
from noiseshift.shift.report import ShiftReport

FORMER_NAMES = {"blind-free": "level-nag"}
"""Methods by their names in version 0.1, which run folders and command lines may still hold."""


def current_name(name: str) -> str:
    """A method's name, such as `level-nag=0.5`, as it is written today."""
    kind, equals, scale = name.partition("=")
    return FORMER_NAMES.get(kind, kind) + equals + scale


SCORE_INTERVAL = (0.0, 0.6)
"""Where noise-unconditional epsilons and scores are mixed: above it they are singular."""


@dataclass(frozen=True)
class MethodContext:
    """What a method may need; each is None where there is none.

    Attributes:
        model: the bare model.
        log_prob: a level estimator's log p(t | x).
        effective_level: its reading of a state's level.
        pilot: the report of an unguided run.
        other: another model to guide away from.
    """

    model: Model
    log_prob: LogProb | None = None
    effective_level: EffectiveLevel | None = None
    pilot: ShiftReport | None = None
    other: Model | None = None


@dataclass(frozen=True)
class Built:
    """A method made for one context.

    Attributes:
        model: the model to sample with.
        update: what it does to the update, or None.
    """

    model: Model
    update: Callable[[Update], Update] | None = None


@dataclass(frozen=True)
class Method:
    """A correction, and how it is made. `noiseshift.method` reads its word.

    Attributes:
        name: with its scale, such as "nag=0.5".
        make: makes it for a context.
        kind: without its scale.
        scale: orders methods of one kind.
        pictures: whether it acts along height and width, so that other states have none of it.
    """

    name: str
    make: Callable[[MethodContext], Built]
    kind: str = ""
    scale: float = 0.0
    pictures: bool = False

    def describe(self) -> dict[str, Any]:
        """What it is, in plain values: its name, and the hash of how it is made, with all of its scales and windows."""
        return {"name": self.name, "make": identity(self.make)}


def each_once(methods: Iterable[Method]) -> list[Method]:
    """The methods, those that are named again left out.

    Args:
        methods: in their order.

    Raises:
        ValueError: for two of one name that are not made alike: rows and files are known by their names.
    """
    found: dict[str, Method] = {}
    for each in methods:
        if found.setdefault(each.name, each).describe() != each.describe():
            raise ValueError(f"two different methods are called {each.name}: give one of them another name")
    return list(found.values())


def unguided() -> Method:
    """The model as it is: what everything is compared with."""
    return Method("none", lambda context: Built(context.model), "none")


def guided_method(
    cfg: float = 0.0,
    nag: float = 0.0,
    classifier_nag: float = 0.0,
    dog: float = 0.0,
    autoguidance: float = 0.0,
    *,
    space: Predicts | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    name: str = "",
) -> Method:
    """CFG, NAG, classifier-based NAG, domain guidance and autoguidance, added up. Scale 0 = unguided.

    Args:
        cfg: scale of classifier-free guidance.
        nag: scale of noise awareness guidance.
        classifier_nag: scale of its classifier-based form.
        dog: scale of domain guidance away from the context's other model.
        autoguidance: scale of autoguidance away from it.
        space: mixes the noise-unconditional branch elsewhere than where it was trained, inside t ≤ 0.6.
        intervals: by kind (cfg, nag, classifier-nag, dog, autoguidance), the times between which it guides; the others do wherever
            they can.
        name: what the method is called.

    Returns:
        The method.
    """
    times = intervals or {}

    def within(kind: str) -> dict[str, tuple[float, float]]:
        return {"interval": times[kind]} if kind in times else {}

    def make(context: MethodContext) -> Built:
        guidance = Guidance()
        model = context.model
        if cfg:
            guidance = guidance + classifier_free(cfg, **within("cfg"))
        if nag and space in (None, model.predicts):
            guidance = guidance + noise_awareness(nag, **within("nag"))
        elif nag:
            assert space is not None
            model = BranchSpace(model, space, _level(context))
            guidance = guidance + noise_awareness(nag, interval=SCORE_INTERVAL)
        if classifier_nag:
            if context.log_prob is None:
                raise ValueError("classifier-based NAG needs a level estimator: train one, or leave it out")
            push = classifier_noise_awareness(context.log_prob, classifier_nag, **within("classifier-nag"))
            guidance = guidance + push
        if dog:
            guidance = guidance + guidances.domain(_other(context), dog, **within("dog"))
        if autoguidance:
            away = guidances.autoguidance(_other(context), autoguidance, **within("autoguidance"))
            guidance = guidance + away
        return Built(Guided(model, guidance))

    scales = {"cfg": cfg, "nag": nag, "classifier-nag": classifier_nag, "dog": dog, "autoguidance": autoguidance}
    words = {kind: "@{:g}:{:g}".format(*interval) for kind, interval in times.items()}
    kind = "+".join(k + words.get(k, "") for k, w in scales.items() if w) + (f"-{space}" if space else "")
    return Method(name, make, kind, nag or classifier_nag or cfg or dog or autoguidance)


def level_nag(scale: float) -> Method:
    return Method(f"level-nag={scale:g}", lambda b: Built(LevelGuidance(b.model, scale, _level(b))), "level-nag", scale)


def projection() -> Method:
    def make(context: MethodContext) -> Built:
        effective_level = _level(context)
        return Built(context.model, lambda update: level_projection(update, effective_level))

    return Method("projection", make, "projection")


def noise_level_correction() -> Method:
    """`nlc`; see `alternatives.NoiseLevelCorrected`."""
    return Method("nlc", lambda b: Built(NoiseLevelCorrected(b.model, _level(b))), "nlc")


def closed_loop(largest: float = 2.0) -> Method:
    """NAG whose scale at each t would hold the pilot's shift at its floor."""

    def make(context: MethodContext) -> Built:
        if context.pilot is None:
            raise ValueError("closed-loop NAG needs a pilot run of the unguided model: measure that first")
        table = context.pilot.table()
        level = context.model.schedule(torch.tensor(context.pilot.times))
        scale = closed_loop_scale(
            context.pilot.times,
            level.sigma.numpy(),
            table["shift"].to_numpy(),
            level.dsigma.numpy(),
            table.floor.to_numpy(),
            largest=largest,
        )
        return Built(Guided(context.model, noise_awareness(scale)))

    return Method(f"closed-loop={largest:g}", make, "closed-loop", largest)


def epsilon_scaling(offset: float, slope: float = 0.0) -> Method:
    """`epsilon-scaling=B[:K]`: eps / (B + K t); see `alternatives.EpsilonScaled`.

    Args:
        offset: B, near 1.
        slope: K, 0 for the uniform schedule.
    """
    name = f"epsilon-scaling={offset:g}" + (f":{slope:g}" if slope else "")
    return Method(name, lambda b: Built(EpsilonScaled(b.model, offset, slope)), "epsilon-scaling", offset + slope)


def score_rescaling(k: float, spread: float = 1.0) -> Method:
    """`tsr=K[:SPREAD]`; see `alternatives.ScoreRescaled`.

    Args:
        k: by what the variance is divided, above 0; 1 changes nothing.
        spread: standard deviation of a mode of the data, above 0.

    Raises:
        ValueError: a number that is not above 0.
    """
    name = f"tsr={k:g}" + (f":{spread:g}" if spread != 1 else "")
    if not (k > 0 and spread > 0):
        raise ValueError(f"tsr=K[:SPREAD] takes numbers above 0, got {k:g} and {spread:g}")
    return Method(name, lambda b: Built(ScoreRescaled(b.model, k, spread)), "tsr", k)


def wavelets(low: float, high: float = 0.0) -> Method:
    """`dcw=LOW[:HIGH]`, for pictures; see `alternatives.wavelet_correction`.

    Args:
        low: scale of the coarse band.
        high: scale of the fine bands.
    """
    name = f"dcw={low:g}" + (f":{high:g}" if high else "")

    def make(context: MethodContext) -> Built:
        return Built(context.model, lambda update: wavelet_correction(update, low, high))

    return Method(name, make, "dcw", low, pictures=True)


def time_shift(window: float, *, cutoff: float = 0.2) -> Method:
    """`time-shift=WINDOW`; see `alternatives.TimeShifted`.

    Args:
        window: the time is searched within half of it on either side of t.
        cutoff: the time is moved only while t is above it.
    """
    return Method(f"time-shift={window:g}", lambda b: Built(TimeShifted(b.model, window, cutoff)), "time-shift", window)


def time_step_guidance(scale: float) -> Method:
    return Method(f"tsg={scale:g}", lambda b: Built(TimeStepGuidance(b.model, scale)), "tsg", scale)


def _level(context: MethodContext) -> EffectiveLevel:
    if context.effective_level is None:
        raise ValueError("this method reads the level of each state: it needs a level estimator; train one")
    return context.effective_level


def _other(context: MethodContext) -> Model:
    if context.other is None:
        raise ValueError("dog and autoguidance guide away from another model: name it with --against")
    return context.other
