"""Imports for a command that takes less time than they do: without what it does not need, and without collecting garbage."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_schedulers() -> None:
    """Import what schedulers need of diffusers; scipy.stats, for noise levels from a beta distribution, comes at its first use."""
    sys.modules.setdefault("scipy.stats", _Later("scipy.stats"))
    with _without("torch._dynamo"), _no_map_of_packages():
        importlib.import_module("diffusers.schedulers")
        importlib.import_module("diffusers.utils.torch_utils")


@contextmanager
def without_garbage() -> Iterator[None]:
    """Collect no garbage within, and never look through what was imported: it stays, and going through it again and again takes a
    sixth of the time of importing torch. Where torch is there already, the process is not a command's own and stays as it is."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _no_map_of_packages() -> Iterator[None]:
    """diffusers reads the metadata of every package that is installed, to tell distributions from modules of another name (cv2); no
    scheduler asks for one of these."""
    whole = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = dict
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = whole


@contextmanager
def _without(name: str) -> Iterator[None]:
    """diffusers imports torch's compiler for one decorator, and has a stand-in where that is missing: it is missing for as long
    as the import takes."""
    missing = name not in sys.modules and "diffusers" not in sys.modules
    if missing:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if missing:
            del sys.modules[name]


class _Later(ModuleType):
    """Stands for a module that is imported when anything in it is asked for. Not importlib's LazyLoader: torch's import asks every
    module for its `__file__`, and that would load it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
