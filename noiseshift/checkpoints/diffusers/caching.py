"""Caches of diffusers: transformers that skip what changed little since the step before, by diffusers' own hooks.

A cache holds the past of one run. So a cached network is one of its own, which samples and does nothing else, and forgets at the
start of every run: where the time does not fall, or the batch is another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import Branch, Prediction, Wrapped

if TYPE_CHECKING:
    from noiseshift.networks.model import NetworkModel

KINDS: Mapping[str, tuple[str, str, Callable[[float], float | int]]] = {
    "first-block": ("FirstBlockCacheConfig", "threshold", float),
    "taylorseer": ("TaylorSeerCacheConfig", "cache_interval", int),
    "pab": ("PyramidAttentionBroadcastConfig", "spatial_attention_block_skip_range", int),
    "faster": ("FasterCacheConfig", "spatial_attention_block_skip_range", int),
    "mag": ("MagCacheConfig", "threshold", float),
}
"""By word: diffusers' configuration, and the option that the number after the colon sets."""


class Cached(Wrapped):
    """A model whose network keeps what it computed at the step before.

    Args:
        model: is copied, network and all.
        kind: one of `KINDS`.
        value: of the kind's option; diffusers' own where it is None.

    Raises:
        ValueError: in one line, for a kind that the installed diffusers has not, or a network that takes no such cache.
    """

    def __init__(self, model: NetworkModel, kind: str, value: float | None = None):
        own = copy.copy(model)
        own.network = copy.deepcopy(model.network)
        super().__init__(own)
        self.kind = kind
        self.value = value
        self.was = identity(model)
        self._time = -1.0
        self._rows = 0
        self._number = 0
        self.inner = _enabled(own.network, kind, value, lambda: self._number)

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

    def _look(self, x: Tensor, t: Tensor, branches: int = 1) -> None:
        """Forget at the start of a run."""
        time = float(t.flatten()[0])
        rows = branches * len(x)
        if time > self._time or rows != self._rows:
            self.inner._reset_stateful_cache()
        self._number = int(1000 * float(t.flatten()[0]))
        self._time = time
        self._rows = rows


def _enabled(network: nn.Module, kind: str, value: float | None, number: Callable[[], int]) -> Any:
    """The diffusers network inside of ours, with its cache on."""
    import diffusers.hooks as hooks

    name, option, made = KINDS[kind]
    config = getattr(hooks, name, None)
    inner: Any = getattr(network, "transformer", None)
    if config is None:
        raise ValueError(f"this version of diffusers has no {name}: leave cache={kind} out, or install a newer one")
    if inner is None or not hasattr(inner, "enable_cache"):
        raise ValueError(
            f"cache={kind} is for transformers of diffusers folders that take caches (Flux, …): leave it out"
        )
    given: dict[str, Any] = {} if value is None else {option: made(value)}
    if kind in ("pab", "faster"):
        given["current_timestep_callback"] = number
    try:
        inner.enable_cache(config(**given))
    except Exception as error:  # diffusers raises many kinds for what it does not take
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ValueError(f"cache={kind} cannot be used with this network: {reason}") from None
    return inner
