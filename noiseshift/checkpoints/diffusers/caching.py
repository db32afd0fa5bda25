"""Caches of diffusers: transformers that skip what changed little since the step before, by diffusers' own hooks.

A cache holds the past of one run of one batch. So a cached network is one of its own, which samples and does nothing else; it takes
a batch as a whole, and forgets at the start of every run: where the time does not fall, or the batch is another.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.memory import Halving, is_out_of_memory
from noiseshift.diffusion.models import Branch, Model, Prediction, Wrapped

if TYPE_CHECKING:
    from noiseshift.networks.model import NetworkModel

Answer = TypeVar("Answer")
Walk = Callable[[Model], object]
"""Sends a few samples through a model, from noise to data."""

KINDS: Mapping[str, tuple[str, str, Callable[[float], float | int]]] = {
    "first-block": ("FirstBlockCacheConfig", "threshold", float),
    "taylorseer": ("TaylorSeerCacheConfig", "cache_interval", int),
    "pab": ("PyramidAttentionBroadcastConfig", "spatial_attention_block_skip_range", int),
    "faster": ("FasterCacheConfig", "spatial_attention_block_skip_range", int),
    "mag": ("MagCacheConfig", "threshold", float),
}
"""By word: diffusers' configuration, and the option that the number after the colon sets."""

MAG = "mag"
"""The cache that must know beforehand how fast the network's answers change from step to step."""

FIRST = 1000
"""The timestep that a cache is given at the first call of a run, where every one computes."""


class Cached(Wrapped):
    """A model whose network keeps what it computed at the step before.

    Args:
        model: is copied, network and all.
        kind: one of `KINDS`.
        value: of the kind's option; diffusers' own where it is None.
        walk: one run of the sampler, on which `mag` is calibrated before the first call; others need none.

    Raises:
        ValueError: in one line, for a kind that the installed diffusers has not, or a network that takes no such cache.
    """

    def __init__(self, model: NetworkModel, kind: str, value: float | None = None, walk: Walk | None = None):
        own = copy.copy(model)
        own.network = copy.deepcopy(model.network)
        own.halving = Whole("the cached network")
        super().__init__(own)
        self.kind = kind
        self.value = value
        self.was = identity(model)
        self.inner = _cacheable(own.network, kind)
        self.skipping = Skipping(self.inner)
        self._walk = walk if kind == MAG else None
        self._started = self._time = -1.0
        self._rows = 0
        self._number = FIRST
        _enable(self.inner, kind, self._options())

    def describe(self) -> dict[str, Any]:
        """The model before, and the cache."""
        return {"model": self.was, "cache": self.kind, "value": self.value}

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        self._look(x, t)
        with self.inner.cache_context("run"):
            return self.model(x, t, cond)

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        self._look(x, t, len(branches))
        with self.inner.cache_context("run"):
            return self.model.predict(x, t, cond, branches)

    def to(self, device: Any, precision: str = "fp32") -> Cached:
        """This model itself, on a device: the network is moved, not copied.

        Args:
            device: Where it computes from now on.
            precision: "fp32", "bf16" or "fp16", by autocast.

        Raises:
            ValueError: The precision is another word.
        """
        model: Any = self.model
        self.model = model.to(device, precision)
        return self

    def _options(self) -> dict[str, Any]:
        _, option, made = KINDS[self.kind]
        given: dict[str, Any] = {} if self.value is None else {option: made(self.value)}
        if self.kind in ("pab", "faster"):
            given["current_timestep_callback"] = lambda: self._number
        if self.kind == "faster":
            # Its other half takes the first half of the rows for an unconditional branch, which they are not here.
            given |= {"is_guidance_distilled": True, "attention_weight_callback": lambda _: 0.5}
        return given | {"calibrate": True, "num_inference_steps": MANY} if self._walk is not None else given

    def _look(self, x: Tensor, t: Tensor, branches: int = 1) -> None:
        """Forget at the start of a run."""
        if self._walk is not None:
            self._calibrate(self._walk)
        time = float(t.flatten()[0])
        rows = branches * len(x)
        begins = time > self._time or time >= self._started or rows != self._rows
        if begins:
            self.inner._reset_stateful_cache()
            self._started = time
        self._number = FIRST if begins else int(1000 * time)
        self._time = time
        self._rows = rows
        self.skipping.calls += 1

    def _calibrate(self, walk: Walk) -> None:
        """Enable the cache with what one run without it showed: how the size of its blocks' part changes from call to call."""
        self._walk = None
        walk(self)
        with self.inner.cache_context("run"):
            ratios = _ratios(self.inner)
        self.inner.disable_cache()
        _enable(self.inner, MAG, self._options() | {"mag_ratios": ratios, "num_inference_steps": len(ratios)})
        self._started = self._time = -1.0
        self.skipping.forget()


MANY = 1 << 30
"""More calls than a run has: a calibration ends when it is read."""


class Whole(Halving):
    """Calls functions on a batch as a whole: what a cache holds is of these rows, in their order."""

    def __call__(self, function: Callable[..., Answer], *batch: Tensor | None, most: int | None = None) -> list[Answer]:
        """The answer to the whole batch, whatever `most` is. Raises MemoryError where it does not fit."""
        try:
            return [function(*batch)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        raise MemoryError(f"memory is full: {self.who} takes a batch as a whole; take a smaller --batch")


class Skipping:
    """How many of a network's attentions were not computed, counted off their query projections.

    Attributes:
        calls: of the network.
    """

    def __init__(self, network: nn.Module):
        found = [getattr(layer, "to_q", None) for layer in network.modules()]
        queries = [layer for layer in found if isinstance(layer, nn.Module)]
        self.calls = 0
        self._layers = len(queries)
        self._computed = 0
        for layer in queries:
            layer.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._computed += 1

    def forget(self) -> None:
        """Count from here on."""
        self.calls = self._computed = 0

    @property
    def share(self) -> float:
        """Of the attentions of all calls; NaN before the first."""
        whole = self.calls * self._layers
        return 1 - self._computed / whole if whole else float("nan")


def _cacheable(network: nn.Module, kind: str) -> Any:
    """The diffusers network inside of ours, which takes caches."""
    import diffusers.hooks as hooks

    name = KINDS[kind][0]
    inner: Any = getattr(network, "transformer", None)
    if getattr(hooks, name, None) is None:
        raise ValueError(f"this version of diffusers has no {name}: leave cache={kind} out, or install a newer one")
    if inner is None or not hasattr(inner, "enable_cache"):
        raise ValueError(
            f"cache={kind} is for transformers of diffusers folders that take caches (Flux, …): leave it out"
        )
    return inner


def _enable(inner: Any, kind: str, options: Mapping[str, Any]) -> None:
    """Switch the cache of a diffusers network on; what diffusers says of its caches in general is not repeated at each."""
    import diffusers.hooks as hooks

    said = logging.getLogger("diffusers.hooks.faster_cache")
    level, said.level = said.level, logging.ERROR
    try:
        inner.enable_cache(getattr(hooks, KINDS[kind][0])(**options))
    except Exception as error:  # diffusers raises many kinds for what it does not take
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ValueError(f"cache={kind} cannot be used with this network: {reason}") from None
    finally:
        said.level = level


def _ratios(inner: nn.Module) -> list[float]:
    """What diffusers' calibration of `mag` has found so far, a number a call."""
    from diffusers.hooks.mag_cache import _MAG_CACHE_BLOCK_HOOK

    registries: list[Any] = [getattr(layer, "_diffusers_hook", None) for layer in inner.modules()]
    hooks = [registry.get_hook(_MAG_CACHE_BLOCK_HOOK) for registry in registries if registry is not None]
    last = next(hook for hook in hooks if getattr(hook, "is_tail", False))
    return list(last.state_manager.get_state().calibration_ratios)
