"""An unpickler that calls nothing: names stay names, and what a pickle does with them is asked of two methods.

A pickle is a program. Python's own interpreter of it imports whatever is named, calls it (REDUCE, NEWOBJ, INST, OBJ), sets any
attribute of anything (BUILD), and hands items to whatever has an append or a __setitem__ (APPEND, SETITEM). Here a name is an
inert `Name`; a call and a state are handed to `make` and `build`, and items go into plain lists, dicts and sets alone.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np
from torch import Tensor

from noiseshift.reading import require_room

PLAIN = (str, bytes, int, float, complex, bool, type(None))
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules as Python 2 called them, and old protocols do."""
VALUES = 2_000_000
"""Most instructions of a file's pickles, each of which makes a value at most, and most values of what it makes, counted as often
as they are referred to."""
ROOM = 256 << 20
"""Bytes that may be made beside those of the file: a call may copy what is there, as often as it likes."""
LINE = 64 << 20
"""Longest line of an old protocol."""
NAME = 1000
"""Longest name."""
SET, MARK, CALL, TENSOR = 216, 80, 200, 1200
"""Bytes of an empty set, of a mark, of what a call makes beside its contents, and of a tensor that is a view."""


@dataclass(frozen=True)
class Name:
    """What a pickle names, `module.name`; nothing is imported."""

    full: str

    @property
    def last(self) -> str:
        return self.full.rpartition(".")[2]


class Bounded(io.RawIOBase):
    """A stream that gives no more than it has: a pickle may claim a terabyte, and Python makes room for it before it reads."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        place = stream.tell()
        self.left = stream.seek(0, io.SEEK_END) - place
        stream.seek(place)

    def read(self, size: int = -1) -> bytes:
        if size > self.left:
            raise EOFError("it ends before what it claims")
        require_room(size)
        found = self.stream.read(size)
        self.left -= len(found)
        return found

    def readline(self, size: int | None = -1) -> bytes:
        found = self.stream.readline(LINE + 1)
        if len(found) > LINE:
            raise pickle.UnpicklingError("a line of it is too long")
        self.left -= len(found)
        return found

    def readinto(self, room: Any) -> int:
        found = self.read(min(len(room), self.left))
        room[: len(found)] = found
        return len(found)


class Allowance:
    """What a file's pickles may still take, those within them too.

    Args:
        size: Bytes of the file.
    """

    def __init__(self, size: int):
        self.instructions = VALUES
        self.room = ROOM + 4 * size  # old protocols hold numbers as words, of which bytes are made, and of these arrays
        self.odd_keys = 0

    def act(self, times: int = 1) -> None:
        """Take so many instructions: a megabyte of them, which packs to a kilobyte, would fill any memory. Raises
        UnpicklingError where there are too many."""
        self.instructions -= times
        if self.instructions < 0:
            raise pickle.UnpicklingError(f"it has more than {VALUES:,} values")

    def make(self, size: int) -> None:
        """Take so many bytes that are made, not read. Raises UnpicklingError likewise."""
        self.room -= size
        if self.room < 0:
            raise pickle.UnpicklingError("it would fill the memory")

    def key(self, key: Any) -> None:
        """Take a key of a dict or set. Any number of them may be made that hash alike, so that each is compared with all before it.

        Args:
            key: A plain value, or a row of them.

        Raises:
            UnpicklingError: There are too many whose hash can be chosen.
        """
        if _hash_is_known(key):
            self.odd_keys += 1
            self.act(self.odd_keys // 8)


def _hash_is_known(key: Any) -> bool:
    """Whether a key's hash can be chosen: words have another one in every process, small numbers their own."""
    if isinstance(key, tuple):
        return not (key and isinstance(key[0], str | bytes | Name) and key[0])
    return isinstance(key, complex) or (isinstance(key, int) and abs(key) >= sys.hash_info.modulus)


def _counted(act: Callable[[Any], None], size: int = 0) -> Callable[[Any], None]:
    """An instruction that counts, and what it makes."""

    @functools.wraps(act)
    def counted(self: Any) -> None:
        self.allowance.act()
        if size:
            self.allowance.make(size)
        act(self)

    return counted


_MADE = {pickle.EMPTY_SET[0]: SET, pickle.FROZENSET[0]: SET, pickle.MARK[0]: MARK}
"""What takes more than a value does, by instruction."""


class Guarded(pickle._Unpickler):
    """See the module. The standard library's unpickler in Python: its twin in C makes room for as many objects as a file claims
    to remember.

    Args:
        stream: The pickle, or several in a row.
        allowance: What it may take; None for what its size allows.
    """

    # Theirs, by which theirs works: what is on top, and what was pushed since the last mark.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    memo: dict[int, Any]

    def __init__(self, stream: Bounded, allowance: Allowance | None = None):
        super().__init__(stream, encoding="utf-8")
        self.allowance = allowance or Allowance(stream.left)

    def find_class(self, module: str, name: str) -> Any:
        """A name stays one. May refuse it.

        Args:
            module: As the pickle writes it; Python 2's are renamed.
            name: The attribute of it, dotted where it lies deeper.
        """
        if len(module) + len(name) > NAME:
            raise pickle.UnpicklingError("a name of it is too long")
        self.allowance.make(CALL)
        return Name(f"{RENAMED.get(module, module)}.{name}")

    def make(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """What calling a name is taken for.

        Args:
            name: What the pickle calls.
            arguments: What it calls it with, made already.
        """
        raise NotImplementedError

    def build(self, made: Any, state: Any) -> None:
        """Give what `make` made its state.

        Args:
            made: The object.
            state: As the pickle has it: of any kind.
        """
        raise NotImplementedError

    def target(self, kind: type) -> Any:
        """What gets items, a plain container: anything else could run code of its own when it is given some."""
        if not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError(f"it puts items into a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _make(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no name")
        made = self.make(name, arguments)
        self.allowance.make(CALL + _size(made))
        return made

    def _instantiate(self, name: Any, arguments: Any) -> None:  # INST and OBJ end here
        self.append(self._make(name, tuple(arguments)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def load_binpersid(self) -> None:
        pid = self.stack.pop()
        parts = pid if isinstance(pid, tuple) else (pid,)
        if not all(_is_flat(part) for part in parts):
            raise pickle.UnpicklingError("it refers to what is no plain value")
        self.append(self.persistent_load(pid))

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise pickle.UnpicklingError("it makes an object with keywords")
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)
        if isinstance(self.stack[-1], np.ndarray):
            self.allowance.make(self.stack[-1].nbytes)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        self.target(list).extend(items)

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        self.target(dict).update(zip(self.keys(items[::2]), items[1::2], strict=True))

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.target(set).update(self.keys(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(self.keys(items)))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(self.keys(items[::2]), items[1::2], strict=True)))

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_put(self) -> None:
        place = int(self.readline()[:-1])
        if not 0 <= place < 1 << 32:  # as its twins in bytes; larger numbers may hash alike
            raise pickle.UnpicklingError("it remembers under a number that is none")
        self.memo[place] = self.stack[-1]

    def keys(self, keys: Iterable[Any]) -> list[Any]:
        """Keys whose hash takes no time: that of tuples within tuples doubles with every level.

        Args:
            keys: As the pickle has them.

        Returns:
            The same.

        Raises:
            UnpicklingError: One is no plain value, or there are too many that may hash alike.
        """
        found = list(keys)
        if not all(map(_is_flat, found)):
            raise pickle.UnpicklingError("a key is no plain value")
        for key in found:
            self.allowance.key(key)
        return found

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it uses Python's registry of extensions, or buffers beside the pickle")

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.BINPERSID[0]: load_binpersid,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.DICT[0]: load_dict,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.PUT[0]: load_put,
        # A view of an array's memory would outlive it where the array is given another state.
        **dict.fromkeys(
            (code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)),
            refuse,
        ),
    }
    dispatch = {code: _counted(act, _MADE.get(code, 0)) for code, act in dispatch.items()}


def _size(made: Any) -> int:
    """About how many bytes a call has made."""
    if isinstance(made, np.ndarray):
        return made.nbytes
    if isinstance(made, bytes):
        return len(made)
    if isinstance(made, dict | set | tuple):
        return 100 * len(made)
    return TENSOR if isinstance(made, Tensor) else 0


def _is_flat(value: Any) -> bool:
    """A plain value, or one row of them: what can be hashed, compared and shown in no time."""
    return all(isinstance(part, (*PLAIN, Name)) for part in (value if isinstance(value, tuple) else [value]))
