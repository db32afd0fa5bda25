"""A place in front of a scheduler's `step`, which changes nothing of what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor


class Tap:
    """Stands for a scheduler's `step` while it is open; several may stand before one another.

    A deep copy of a scheduler (LTX-2 takes one for its sound) gets its own `step`, and is not watched.

    Args:
        scheduler: of diffusers.
        before: is handed a step's output, timestep and sample.
        after: is handed what the step returned.
    """

    def __init__(self, scheduler: Any, before: Callable[[Tensor, Any, Tensor], None], after: Callable[[Any], None]):
        self.scheduler = scheduler
        self.before = before
        self.after = after
        self.own: Any = scheduler.step
        first: Any = self.own
        while isinstance(first, Tap):
            first = first.own
        self.signature = inspect.signature(first)
        # Pipelines look here whether a step takes a generator and eta, and leave them out where it does not.
        self.__signature__ = self.signature
        self.is_open = False

    def open(self) -> None:
        """Stand before the scheduler's own step."""
        self.scheduler.step = self
        self.is_open = True

    def close(self) -> None:
        """What stood here before shows again; a tap that another was put in front of hands everything on."""
        self.is_open = False
        if vars(self.scheduler).get("step") is not self:
            return
        own: Any = self.own
        while isinstance(own, Tap) and not own.is_open:
            own = own.own
        if isinstance(own, Tap):
            self.scheduler.step = own
        else:
            del self.scheduler.step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._given(args, kwargs) if self.is_open else None
        if given is not None:
            self.before(*given)
        result = self.own(*args, **kwargs)
        if given is not None:
            self.after(result)
        return result

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
        """Output, timestep and sample, by place or by name; None where the step itself will complain."""
        for signature in (self.signature, inspect.signature(MethodType(type(self.scheduler).step, self.scheduler))):
            try:
                output, timestep, sample, *_ = signature.bind(*args, **kwargs).arguments.values()
            except (TypeError, ValueError):
                continue  # one that was put there before, and hands on whatever it is given
            return output, timestep, sample
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.scheduler), self.scheduler)
        return MethodType(type(self.scheduler).step, copied)
