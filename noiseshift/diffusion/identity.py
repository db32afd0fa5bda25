"""What a thing is, as a hash: two objects that could answer differently do not share one.

Weights, settings and the code of a user's functions go in. What differs between two processes stays out: addresses,
the order of sets, devices. Code of installed packages is known by name; their versions belong beside the hash.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noiseshift.diffusion.sources import has_version, imported_by, sources, submodules

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.layout, torch.memory_format)
INCIDENTAL = {"_use_default_values", "_diffusers_version", "_name_or_path", "__doc__", "__module__", "__dict__"}
INCIDENTAL |= {"__weakref__", "__firstlineno__", "__static_attributes__", "__annotations__", "__annotate_func__"}
INCIDENTAL |= {"__annotations_cache__", "_abc_impl", "__abstractmethods__", "__qualname__"}
INCIDENTAL |= {"_is_torch_compile", "_compiled_call_impl"}  # torch leaves them on a network that it compiled
"""Keys that say where and how a thing was made, not what it does."""


def identity(thing: object) -> str:
    """SHA-256, hexadecimal, of what `thing` is: the same in another process, another for other weights or settings.

    An object is its class and its attributes, a network its parameters, buffers and settings, a function its code and
    what the code refers to. An object with a method `describe` is what that returns.
    """
    return _Hashing().digest(thing).hex()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, most: int = 4) -> str:
    """What two descriptions (nested mappings of plain values) differ in, in one line: `seed was 1, is 0; …`.

    Returns the first `most` differences and how many more there are; an empty string where there is none.

    Args:
        before: a description, such as a run's manifest.
        now: another one of the same kind.
        most: how many differences are spelled out.
    """
    found = [f"{key} was {_short(old)}, is {_short(new)}" for key, old, new in _different(before, now, "")]
    return "; ".join(found[:most] + ([f"and {len(found) - most} more"] if len(found) > most else []))


def _different(before: Any, now: Any, key: str) -> Iterable[tuple[str, Any, Any]]:
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if before != now:
            yield key, before, now
        return
    for name in {**before, **now}:
        inner = f"{key}.{name}" if key else str(name)
        yield from _different(before.get(name, "not given"), now.get(name, "not given"), inner)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    hexadecimal = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:8] + "…" if hexadecimal else text if len(text) <= 60 else text[:59] + "…"


HOLDERS = (types.SimpleNamespace, argparse.Namespace)
"""Classes of the standard library that are what they hold."""


class _Hashing:
    """One walk over an object and all it holds; every part is hashed once."""

    def __init__(self) -> None:
        self.known: dict[int, bytes] = {}
        self.alive: list[object] = []  # an id means nothing once its object is gone

    def digest(self, thing: object) -> bytes:
        if isinstance(thing, PLAIN):
            return _hash(type(thing).__name__, repr(thing))
        if id(thing) not in self.known:
            self.alive.append(thing)
            self.known[id(thing)] = b"inside itself"
            self.known[id(thing)] = self._composite(thing)
        return self.known[id(thing)]

    def _composite(self, thing: Any) -> bytes:
        for kinds, method in _METHODS:
            if isinstance(thing, kinds):
                return _hash(method.__name__, *method(self, thing))
        return _hash("object", *self._object(thing))

    def _all(self, things: Iterable[object]) -> list[bytes]:
        return [self.digest(thing) for thing in things]

    def _tensor(self, tensor: Tensor) -> list[bytes]:
        if hasattr(tensor, "__tensor_flatten__"):  # a quantised one is made of plain ones
            names, context = tensor.__tensor_flatten__()
            return self._all([type(tensor), context, *(getattr(tensor, name) for name in names)])
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        return [*self._all([tensor.dtype, tuple(tensor.shape)]), _bytes(plain.view(torch.uint8).numpy())]

    def _array(self, array: np.ndarray | np.generic) -> list[bytes]:
        array = np.asarray(array)
        if array.dtype.hasobject:
            return self._all([array.shape, array.tolist()])
        return [*self._all([array.dtype.str, array.shape]), _bytes(np.ascontiguousarray(array).reshape(-1))]

    def _row(self, row: list[Any] | tuple[Any, ...] | deque[Any]) -> list[bytes]:
        return self._all([type(row), *row])

    def _unordered(self, things: Set[Any]) -> list[bytes]:
        return sorted(self._all(things))

    def _mapping(self, mapping: Mapping[Any, Any]) -> list[bytes]:
        kept = [item for item in mapping.items() if item[0] not in INCIDENTAL]
        return sorted(_hash(*self._all(item)) for item in kept)

    def _network(self, network: nn.Module) -> list[bytes]:
        if isinstance(network, torch.jit.ScriptModule):
            code = [(name, getattr(part, "code", "")) for name, part in network.named_modules()]
            return self._all([code, dict(network.named_parameters()), dict(network.named_buffers())])
        if callable(getattr(type(network), "known_by", None)):  # `networks.variants.Changed`
            known: Any = network
            return self._all([type(network), known.known_by()])
        inside = getattr(network, "_orig_mod", None)  # what torch.compile was given
        if isinstance(inside, nn.Module):
            return [self.digest(inside)]
        bare = vars(nn.Module())
        settings = {key: value for key, value in vars(network).items() if key not in bare}
        hooks = [[*network._forward_pre_hooks.values()], [*network._forward_hooks.values()]]
        held = [*hooks, *(dict(part) for part in (network._parameters, network._buffers, network._modules))]
        return self._all([type(network), network.training, settings, *held])

    def _function(self, function: types.FunctionType) -> list[bytes]:
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)]
        given = self._all([cells, function.__defaults__, function.__kwdefaults__])
        if has_version(function.__module__):
            name = [function.__module__, function.__qualname__, function.__code__.co_names]
            return [*self._all(name), *self._all(_constants(function.__code__)), *given]
        names = _names(function.__code__)
        used = {name: function.__globals__[name] for name in names if name in function.__globals__}
        modules = [part.__name__ for part in used.values() if isinstance(part, types.ModuleType)]
        within = imported_by(function.__code__, function.__globals__.get("__package__"))
        further = within.union(*(submodules(module, names) for module in modules))
        return [
            *given,
            self.digest(function.__code__),
            self.digest(used),
            self.digest({name: sources(name) for name in further}),
        ]

    def _code(self, code: types.CodeType) -> list[bytes]:
        return self._all([code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars])

    def _class(self, made: type) -> list[bytes]:
        name = self._all([made.__module__, made.__qualname__])
        if has_version(made.__module__):
            return name
        return [*name[1:], self.digest(dict(vars(made))), *self._all(made.__bases__)]

    def _method(self, method: types.MethodType) -> list[bytes]:
        return self._all([method.__func__, method.__self__])

    def _partial(self, partial: functools.partial[Any]) -> list[bytes]:
        return self._all([partial.func, partial.args, partial.keywords])

    def _around(self, wrapper: Any) -> list[bytes]:
        return self._all([getattr(wrapper, name, None) for name in ("fget", "fset", "func", "__func__")])

    def _module(self, module: types.ModuleType) -> list[bytes]:
        return self._all([module.__name__, {} if has_version(module.__name__) else sources(module.__name__)])

    def _built_in(self, function: Any) -> list[bytes]:
        owner = getattr(function, "__self__", None)
        return self._all([function.__qualname__, None if isinstance(owner, types.ModuleType) else owner])

    def _object(self, thing: Any) -> list[bytes]:
        kind = type(thing)
        if callable(getattr(kind, "describe", None)):
            return self._all([kind, thing.describe()])
        if inspect.unwrap(thing) is not thing:
            return self._all([kind, inspect.unwrap(thing)])
        slots = {name: getattr(thing, name) for name in _slots(kind) if hasattr(thing, name)}
        if (not hasattr(thing, "__dict__") and not slots) or _of_python(kind):
            shown = repr(thing)
            return self._all([kind, getattr(thing, "__qualname__", None), None if " at 0x" in shown else shown])
        caches = {name for base in kind.__mro__ for name, part in vars(base).items() if _is_cache(part)}
        held = {key: value for key, value in getattr(thing, "__dict__", {}).items() if key not in caches}
        return self._all([kind, held, slots])

    def _place(self, device: torch.device) -> list[bytes]:
        return []

    def _source(self, generator: torch.Generator | np.random.Generator) -> list[bytes]:
        if isinstance(generator, torch.Generator):
            return self._all([generator.initial_seed()])
        return self._all([generator.bit_generator.state])


_METHODS: tuple[tuple[Any, Callable[[_Hashing, Any], list[bytes]]], ...] = (
    (nn.Module, _Hashing._network),
    (Tensor, _Hashing._tensor),
    ((np.ndarray, np.generic), _Hashing._array),
    ((list, tuple, deque), _Hashing._row),
    ((set, frozenset), _Hashing._unordered),
    (Mapping, _Hashing._mapping),
    (type, _Hashing._class),
    (types.FunctionType, _Hashing._function),
    (types.MethodType, _Hashing._method),
    (functools.partial, _Hashing._partial),
    ((property, functools.cached_property, staticmethod, classmethod), _Hashing._around),
    (torch.device, _Hashing._place),
    ((torch.Generator, np.random.Generator), _Hashing._source),
    (types.CodeType, _Hashing._code),
    (types.ModuleType, _Hashing._module),
    ((types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType), _Hashing._built_in),
)


def _hash(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def _bytes(array: np.ndarray) -> bytes:
    return hashlib.sha256(array.view(np.uint8).data).digest()


def _constants(code: types.CodeType) -> list[Any]:
    return [constant for constant in code.co_consts if isinstance(constant, int | float | str)]


def _names(code: types.CodeType) -> set[str]:
    """Names that the code, and the functions inside it, look up outside."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 asking is the only way to know
    except ValueError:
        return False
    return True


def _slots(kind: type) -> list[str]:
    named = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    rows = [(part,) if isinstance(part, str) else tuple(part) for part in named]
    return [name for row in rows for name in row if name not in ("__dict__", "__weakref__")]


def _of_python(kind: type) -> bool:
    """Whether a class is of the standard library, whose objects hold more than they do, such as a logger its handlers."""
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names and kind not in HOLDERS


def _is_cache(part: object) -> bool:
    return isinstance(part, functools.cached_property)
