"""Pickled checkpoints, in every layout that torch writes and NVIDIA's, read by a `Guarded` unpickler.

torch.save's zip (a pickle, and a member a storage), its older stream of five pickles with the storages behind, and plain
pickles such as EDM's. The names in KNOWN are taken for plain values; those that torch also lets through are held as they are;
any other is code, and refused.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError, HoldsCode
from noiseshift.checkpoints.unpickling import tensors
from noiseshift.checkpoints.unpickling.guarded import PLAIN, VALUES, Allowance, Bounded, Guarded, Name
from noiseshift.checkpoints.unpickling.lister import Lister
from noiseshift.checkpoints.unpickling.persistence import Plain, Record, persistent
from noiseshift.checkpoints.unpickling.tensors import Kind, Storage
from noiseshift.reading import MB, bounded, check_zip, fill, opened, reading, size_of

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
"""What torch's older streams begin with."""
OBJECTS = 64 * MB
"""Largest pickle beside a zip's tensors."""
DEEPEST = 4
"""Levels of mappings in settings."""
REMEDY = "give a plain state dict or a .safetensors file"
WHAT = "PyTorch or EDM checkpoint"


class Opaque:
    """An object that is not looked into: its name, and what it was made with."""

    def __init__(self, name: str):
        self.name = name


class Settings(dict[str, Any]):
    """What a training script was called with, an `argparse.Namespace`: its plain values by their names, and nothing else of it, so
    that none of it is taken for weights."""


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    """How old protocols write bytes."""
    if not isinstance(text, str):  # showing lists within lists may take for ever
        raise ValueError("bytes are written as no text")
    return text.encode("latin-1")


def _mapping(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    return dict(pairs) if isinstance(pairs, Mapping) else {}


def _sizes(row: Any = ()) -> tuple[Any, ...]:
    return tuple(row) if isinstance(row, list | tuple) else ()


KNOWN: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _mapping,
    "argparse.Namespace": lambda *_: Settings(),
    "builtins.complex": lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary)),
    "_codecs.encode": _latin,
    "torch.Size": _sizes,
    "torch._utils._rebuild_tensor": tensors.tensor,
    "torch._utils._rebuild_tensor_v2": tensors.tensor,
    "torch._utils._rebuild_tensor_v3": tensors.tensor_of_dtype,
    "torch._utils._rebuild_parameter": tensors.parameter,
    "torch._utils._rebuild_parameter_with_state": tensors.parameter,
    "numpy.dtype": Kind,
    **{
        f"numpy.{core}.multiarray._reconstruct": tensors.array for core in ("core", "_core")
    },  # as numpy 1 and 2 name them
    **{f"numpy.{core}.multiarray.scalar": tensors.scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": tensors.array_of for core in ("core", "_core")},
}
PERSISTENT: Mapping[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": persistent,
    "dnnlib.util.EasyDict": lambda *_: Plain(),
}
"""NVIDIA's, whose own would run the source in the file."""
SET = "builtins.set"
TYPED = "torch._tensor._rebuild_from_type_v2"
NESTED = "torch.storage._load_from_bytes"


@functools.cache
def harmless() -> frozenset[str]:
    """Names that are no code: ours, and those that torch's own restricted unpickler lets through."""
    from torch._weights_only_unpickler import _get_allowed_globals

    return frozenset({*KNOWN, SET, "numpy.ndarray", *_get_allowed_globals()})


class Reader(Guarded):
    """Makes tensors, arrays and records of what a pickle says, and refuses all other code by name (HoldsCode).

    Args:
        stream: The pickle.
        storages: What a persistent id stands for; None where there may be none.
        nested: Whether it is a pickle within a pickle, which may hold no other.
        allowance: What it may take; None for what its size allows.
    """

    def __init__(
        self,
        stream: Bounded,
        storages: Callable[[Any], Any] | None = None,
        *,
        nested: bool = False,
        allowance: Allowance | None = None,
    ):
        super().__init__(stream, allowance)
        self.storages = storages
        self.nested = nested
        self.objects: list[str] = []  # torch's modules, which are records where a persistent object holds them
        self.persistent = False

    def find_class(self, module: str, name: str) -> Name:
        found: Name = super().find_class(module, name)
        if found.full in (NESTED, *PERSISTENT) or found.full in harmless():
            return found
        if module.startswith("torch.nn.modules.") and "." not in name:
            self.objects.append(found.full)
            return found
        raise HoldsCode(found.full)

    def make(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        if name.full == SET:
            return self._set_of(*arguments)
        if name.full in KNOWN:
            return KNOWN[name.full](*arguments)
        if name.full in PERSISTENT:
            self.persistent = True
            return PERSISTENT[name.full](*arguments)
        if name.full == TYPED:  # a tensor of a class of its own, or with attributes
            return self._make(arguments[0], arguments[2])
        if name.full == NESTED:
            return self._inner(*arguments)
        return Record(name.last) if name.full in self.objects else Opaque(name.full)

    def _set_of(self, items: Any = ()) -> set[Any]:
        if not isinstance(items, list | tuple | set | frozenset):
            raise ValueError("a set is made of no row")
        return set(self.keys([item for item in items if isinstance(item, PLAIN)]))

    def _inner(self, content: Any) -> Any:
        if self.nested or not isinstance(content, bytes):
            raise ValueError("it nests files in files")
        self.allowance.make(len(content))
        return read_stream(Bounded(io.BytesIO(content)), self.allowance)

    def build(self, made: Any, state: Any) -> None:
        if isinstance(made, Record | Kind):
            made.build(state)
        elif isinstance(made, Settings):
            made |= self._settings_of(state)
        elif type(made) is np.ndarray:
            tensors.fill_array(made, state)
        elif not isinstance(made, Opaque | dict | Tensor):  # whose attributes are not wanted
            raise ValueError(f"it gives a state to a {type(made).__name__}")

    def _settings_of(self, state: Any, depth: int = 0) -> dict[str, Any]:
        """Plain values, rows of them and settings within settings; what is of another kind is dropped."""
        if type(state) is not dict:
            return {}
        self.allowance.act(len(state))  # a state may be given to as many objects as one likes
        self.allowance.make(100 * len(state))
        found: dict[str, Any] = {}
        for name, value in state.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, dict) and not isinstance(value, Settings) and depth < DEEPEST:
                found[name] = Settings(self._settings_of(value, depth + 1))
            elif isinstance(value, list | tuple):
                self.allowance.act(len(value))
                self.allowance.make(8 * len(value))
                if all(isinstance(part, PLAIN) for part in value):
                    found[name] = tuple(value)
            elif isinstance(value, (*PLAIN, Settings)):
                found[name] = value
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self.storages is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise ValueError("it refers to what is not in it")
        return self.storages(pid)

    def load(self) -> Any:
        found = super().load()
        if self.objects and not self.persistent:
            raise HoldsCode(self.objects[0])
        return bounded(found, parts=_parts, most=VALUES)


def _parts(value: Any) -> Any:
    if isinstance(value, Record):
        return value.state.values()
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def read_pickled(path: Path) -> Any:
    """What is in a checkpoint of torch.save or NVIDIA's, tensors as tensors, their objects as records.

    Raises HoldsCode when it names code, CheckpointError when it is damaged.
    """
    with opened(path, WHAT, REMEDY, CheckpointError) as file, reading(path.name, WHAT, REMEDY, CheckpointError):
        if file.read(4) == ZIP:
            return read_zip(file, path.name)
        file.seek(0)
        return read_stream(Bounded(file))


def read_zip(file: BinaryIO, name: str) -> Any:
    """torch.save's zip: `NAME/data.pkl`, and the bytes of each storage in `NAME/data/KEY`.

    Args:
        file: Open for reading.
        name: Of the file, for messages.
    """
    with zipfile.ZipFile(file) as archive:
        check_zip(archive, size_of(file))
        pickled = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
        if len(pickled) != 1 or pickled[0].file_size > OBJECTS:
            raise ValueError("it is no torch.save's")
        prefix = pickled[0].filename.removesuffix("data.pkl")
        if prefix + "byteorder" in archive.namelist() and archive.read(prefix + "byteorder") != b"little":
            raise CheckpointError(f"{name} was written on a big-endian machine: save it again on this one")
        kept: dict[str, Storage] = {}

        def storage(pid: tuple[Any, ...]) -> Storage:
            _, kind, key, _, count = pid
            member = f"{prefix}data/{key}"
            if member not in kept:
                kept[member] = Storage.of(_member(archive, member), kind, count)
            return kept[member]

        return Reader(Bounded(io.BytesIO(_bytes(archive, pickled[0]))), storage).load()


def _member(archive: zipfile.ZipFile, name: str) -> Tensor:
    raw, room = tensors.empty(archive.getinfo(name).file_size)
    with _opened(archive, archive.getinfo(name)) as stream:
        fill(stream, room)
    return raw


def _bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with _opened(archive, member) as stream:
        return stream.read()


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    if not member.CRC and hasattr(member, "CRC"):
        del member.CRC  # torch can be set to compute none
    return archive.open(member)


def read_stream(stream: Bounded, outer: Allowance | None = None) -> Any:
    """torch's older layout (three pickles about itself, the objects, the storages' keys, their bytes), or one plain pickle.

    Args:
        stream: From where it begins.
        outer: Of the pickle that it lies within; None where it is a file.

    Raises:
        CheckpointError: It was written on a big-endian machine, or holds code.
        EOFError: It ends before what it claims.
        Exception: It is damaged; the kind depends on the damage, and callers turn it into one line by `reading`.
    """
    nested = outer is not None
    allowance = outer or Allowance(stream.left)
    first = Reader(stream, nested=nested, allowance=allowance).load()
    if first != MAGIC or type(first) is not int:
        return first
    Reader(stream, allowance=allowance).load()  # the version of the layout
    machine = Reader(stream, allowance=allowance).load()
    if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine: save it again on this one")
    start = stream.stream.tell()
    # The bytes come last: first see which storages there are, then fill them, then build on them.
    lister = Lister(stream, allowance)
    lister.load()
    claimed = {str(pid[2]): pid for pid in lister.pids}
    raw = {key: _behind(stream, claimed[key]) for key in Reader(stream, allowance=allowance).load()}
    stream.stream.seek(start)
    reopened = Bounded(stream.stream)
    return Reader(reopened, lambda pid: _part(raw[str(pid[2])], *pid[5:]), nested=nested, allowance=allowance).load()


def _behind(stream: Bounded, pid: tuple[Any, ...]) -> Storage:
    """The next storage: how many numbers, then their bytes."""
    _, kind, _, _, count = pid[:5]
    if not isinstance(kind, Name) or type(count) is not int or int.from_bytes(stream.read(8), "little") != count:
        raise ValueError("a storage is not as large as it claims")
    size = count * tensors.DTYPES[kind.last].itemsize
    if size > stream.left:
        raise EOFError("it ends before what it claims")
    raw, room = tensors.empty(size)
    fill(stream, room)
    return Storage.of(raw, kind, count)


def _part(storage: Storage, view: Any = None) -> Storage:
    """A storage, or the part of it that a view of one is: (key, offset, length)."""
    if view is None:
        return storage
    _, offset, length = view
    if type(offset) is not int or type(length) is not int or not 0 <= offset <= offset + length <= len(storage.values):
        raise ValueError("a storage is not as large as it claims")
    return Storage(storage.values[offset : offset + length])
