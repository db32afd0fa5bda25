"""Pickles written by hand to reach past an unpickler: into numpy's dtypes, torch's strides, Python's attributes.

Each is loaded in a process of its own, so that a crash is seen: it must end in one line, or in a model.
"""

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch

from noiseshift.checkpoints.unpickling.reader import KNOWN, NESTED, PERSISTENT, SET, TYPED

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


def lit(value):
    """Opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def name(dotted):
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def row(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(dotted, *parts):
    return name(dotted) + row(*parts) + b"R"


def state(made, *parts):
    return made + row(*parts) + b"b"


def whole(part):
    """A file {"ema": part}."""
    return b"\x80\x02}" + lit("ema") + part + b"s."


def raw(content):
    return b"B" + struct.pack("<I", len(content)) + content


def dtype(word, *about):
    made = call("numpy.dtype", lit(word), lit(False), lit(True))
    return state(made, *about) if about else made


def filled(kind, shape, content, core="core"):
    empty = call(f"numpy.{core}.multiarray._reconstruct", name("numpy.ndarray"), row(lit(0)), raw(b"b"))
    return state(empty, lit(1), shape, kind, lit(False), content)


F8 = dtype("f8", lit(3), lit("<"), b"N", b"N", b"N", lit(-1), lit(-1), lit(0))
POINTERS = b"\x41" * 64


def stored(numbers=4):
    """A sound storage, as EDM's pickles hold theirs: a file of torch's older layout inside."""
    parts = [pickle.dumps(part, 2) for part in MAGIC]
    inside = row(lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(numbers), b"N") + b"Q"
    behind = struct.pack(f"<Q{numbers}f", numbers, *range(numbers))
    inner = b"".join([*parts, b"\x80\x02" + inside + b".", pickle.dumps(["0"], 2), behind])
    return call("torch.storage._load_from_bytes", raw(inner))


def tensor(storage, offset, size, stride):
    parts = (storage, lit(offset), lit(size), lit(stride), lit(False), call("collections.OrderedDict"))
    return call("torch._utils._rebuild_tensor_v2", *parts)


def doubled(levels, start, end):
    """A value that holds the one before twice, `levels` times over, in as many bytes."""
    made = start
    for place in range(levels):
        made += b"q" + bytes([place + 1]) + end(bytes([place + 1]))
    return made


def tuples(levels):
    return doubled(levels, b")", lambda place: b"h" + place + b"\x86")


def lists(levels):
    return doubled(levels, b"]", lambda place: b"0](h" + place + b"h" + place + b"e")


PLAIN = {
    "an array of objects over the file's bytes": filled(dtype("O8"), row(lit(8)), raw(POINTERS)),
    "numpy 2's name for it": filled(dtype("O8"), row(lit(8)), raw(POINTERS), "_core"),
    "objects by a dtype's state": filled(
        dtype("V8", lit(3), lit("|"), b"N", b"N", b"N", lit(8), lit(8), lit(63)), row(lit(8)), raw(POINTERS)
    ),
    "a float's state with the flags of an object": filled(
        dtype("f8", lit(3), lit("<"), b"N", b"N", b"N", lit(-1), lit(-1), lit(63)), row(lit(8)), raw(POINTERS)
    ),
    "a field of objects": filled(
        dtype(
            "V8",
            *(lit(3), lit("|"), b"N", row(lit("a")), b"}" + lit("a") + row(dtype("O8"), lit(0)) + b"s"),
            *(lit(8), lit(1), lit(27)),
        ),
        row(lit(8)),
        raw(POINTERS),
    ),
    "a dtype of words": filled(dtype("f8,O"), row(lit(4)), raw(POINTERS)),
    "a dtype of rows": filled(
        dtype("f8", lit(3), lit("<"), row(F8, row(lit(1 << 40))), b"N", b"N", lit(8), lit(1), lit(0)),
        row(lit(1)),
        raw(b"\0" * 8),
    ),
    "a dtype that is a dtype": call("numpy.dtype", F8),
    "a dtype given to a dtype": state(dtype("f8"), lit(3), dtype("O8"), b"N", b"N", b"N", lit(-1), lit(-1), lit(0)),
    "a scalar of objects": call("numpy.core.multiarray.scalar", dtype("O8"), raw(b"\x41" * 8)),
    "a scalar that is short": call("numpy.core.multiarray.scalar", F8, raw(b"\0")),
    "an array without end": filled(F8, row(lit(1 << 62), lit(4)), raw(b"")),
    "an array of less than nothing": filled(F8, row(lit(-4), lit(-4)), raw(b"\0" * 128)),
    "an array larger than its bytes": filled(F8, row(lit(5)), raw(b"\0" * 32)),
    "an array of a list": filled(F8, row(lit(1)), lit([None])),
    "an array of another class": state(
        call("numpy.core.multiarray._reconstruct", name("numpy.dtype"), row(lit(0)), raw(b"b")), lit(1), lit(2)
    ),
    "a buffer of objects": call("numpy.core.numeric._frombuffer", raw(POINTERS), dtype("O8"), row(lit(8)), lit("C")),
    "a buffer that is short": call("numpy.core.numeric._frombuffer", raw(b"\0"), F8, row(lit(8)), lit("C")),
    "items into an array": filled(F8, row(lit(1)), raw(b"\0" * 8)) + lit(0) + b"N" + b"s",
    "more for an array": filled(F8, row(lit(1)), raw(b"\0" * 8)) + b"Na",
    "a stride backwards": tensor(stored(), 3, (4,), (-1,)),
    "an offset before the start": tensor(stored(), -1, (2,), (1,)),
    "an offset behind the end": tensor(stored(), 1 << 40, (2,), (1,)),
    "a shape without end": tensor(stored(), 0, (1 << 40, 1 << 40), (0, 0)),
    "a stride that overflows": tensor(stored(), 0, (2, 2), (1 << 62, 1 << 62)),
    "a shape that is negative twice": tensor(stored(), 0, (-2, -2), (1, 1)),
    "a shape of a hundred sides": tensor(stored(), 0, (1,) * 100, (1,) * 100),
    "no stride": tensor(stored(), 0, (2, 2), (1,)),
    "a shape of fractions": tensor(stored(), 0, (2.0,), (1,)),
    "nothing of a shape without end": tensor(stored(), 0, (0, 1 << 62, 1 << 62), (1, 1, 1)),
    "a tensor on no storage": tensor(lit(7), 0, (1,), (1,)),
    "a tensor on an array": tensor(filled(F8, row(lit(1)), raw(b"\0" * 8)), 0, (1,), (1,)),
    "a tensor's state": tensor(stored(), 0, (2,), (1,)) + lit({"data": 1, "__class__": 2}) + b"b",
    "items into a tensor": tensor(stored(), 0, (2,), (1,)) + lit(0) + lit(1 << 70) + b"s",
    "a sparse tensor": call("torch._utils._rebuild_sparse_tensor", lit(0), row(lit(9), lit(9), row(lit(-1)))),
    "a quantised tensor": call("torch._utils._rebuild_qtensor", stored(), lit(0), lit((9,)), lit((1,)), lit(0)),
    "a file in a file in a file": call(
        "torch.storage._load_from_bytes", raw(whole(call("torch.storage._load_from_bytes", raw(b"\x80\x02N."))))
    ),
    "a type of its own": call("torch._tensor._rebuild_from_type_v2", name("os.system"), b"N", row(lit("true")), b"N"),
    "the type of a type": call(
        "torch._tensor._rebuild_from_type_v2", name("torch._tensor._rebuild_from_type_v2"), b"N", b"N", b"N"
    ),
    "a registered extension": b"\x82\x01",
    "another": b"\x84\xff\xff\xff\x7f",
    "a persistent id": lit("storage") + b"Q",
    "a storage of nowhere": row(lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(4)) + b"Q",
    "an instance": b"(iargparse\nNamespace\n",
    "an object": b"(" + name("os.system") + lit("true") + b"o",
    "attributes of a function": name("torch._utils._rebuild_tensor_v2") + row(b"N", lit({"__defaults__": ()})) + b"b",
    "attributes of a class": name("collections.OrderedDict") + lit({"__setitem__": None}) + b"b",
    "attributes of a mapping": call("collections.OrderedDict") + row(b"N", lit({"__class__": None})) + b"b",
    "attributes of a Namespace": name("argparse.Namespace") + b")\x81" + row(b"N", lit({"__class__": 1})) + b"b",
    "settings within themselves": name("argparse.Namespace") + b")\x81q\x40}" + lit("x") + b"h\x40sb",
    "settings that are no mapping": name("argparse.Namespace") + b")\x81" + lists(60) + b"b",
    "settings of rows of rows": name("argparse.Namespace") + b")\x81}" + lit("x") + lists(60) + b"sb",
    "a Namespace of code": name("argparse.Namespace") + b")\x81" + lit({"__dict__": 1, "__setstate__": 2}) + b"b",
    "a call of a number": lit(7) + b")R",
    "a call of a call": call("collections.OrderedDict") + b")R",
    "a call with no row": name("collections.OrderedDict") + lit(7) + b"R",
    "an object with keywords": name("collections.OrderedDict") + b")" + lit({"a": 1}) + b"\x92",
    "a name by its stack": lit("os") + lit("system") + b"\x93" + row(lit("true")) + b"R",
    "a dotted name": lit("collections") + lit("OrderedDict.__init__.__globals__") + b"\x93",
    "a key whose hash takes for ever": b"}" + tuples(60) + b"Ns",
    "a set of such": b"\x8f(" + tuples(60) + b"\x90",
    "a frozen one": b"(" + tuples(60) + b"\x91",
    "a value whose print takes for ever": lists(60),
    "a persistent id whose hash takes for ever": tuples(60) + b"Q",
    "a view of an array that outlives it": filled(F8, row(lit(1)), raw(b"\0" * 8)) + b"\x98",
    "a buffer beside the pickle": b"\x97",
    "a list that holds itself": b"]q\x01h\x01a",
    "a depth that no stack holds": b"]" * 100_000 + b"N" + b"a" * 100_000,
    "bytes without end": b"\x8e" + struct.pack("<Q", 1 << 40),
    "room for bytes without end": b"\x96" + struct.pack("<Q", 1 << 40),
    "words without end": b"\x8d" + struct.pack("<Q", 1 << 40),
    "a frame without end": b"\x95" + struct.pack("<Q", 1 << 40),
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n",
    "a place far behind": b"Nr" + struct.pack("<I", (1 << 32) - 1),
    "a stack that is empty": b"000000R",
    "a mark that is none": b"t",
    "words that are none": b"X\x02\0\0\0\xff\xff",
}


def archive(pickled, *, packed=False, **members):
    """torch.save's zip with members of our choice."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("x/data.pkl", pickled)
        for member, content in {"byteorder": b"little", "version": b"3\n", **members}.items():
            file.writestr(f"x/{member.replace('_pkl', '.pkl').replace('_', '/')}", content)
    return made.getvalue()


def on_storage(count, size, kind="torch.FloatStorage", key="0"):
    storage = row(lit("storage"), name(kind), lit(key), lit("cpu"), lit(count)) + b"Q"
    return whole(tensor(storage, 0, size, (1,) * len(size)))


def stream(count, size, *behind):
    """torch's older layout."""
    parts = [pickle.dumps(part, 2) for part in MAGIC]
    storage = row(lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(count), b"N") + b"Q"
    return b"".join([*parts, whole(tensor(storage, 0, size, (1,) * len(size))), *behind])


def tar(content):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        for member in ("storages", "tensors", "pickle"):
            about = tarfile.TarInfo(member)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return made.getvalue()


KEYS = pickle.dumps(["0"], 2)
ARGUMENTS = {
    f"{name_} of {count} {kind} without end": call(name_, *[dag] * count)
    for name_ in [*KNOWN, SET, *PERSISTENT, TYPED, NESTED]
    for count in (1, 2, 3, 4)
    for kind, dag in (("lists", lists(40)), ("tuples", tuples(40)))
}
"""Whatever is made is made of what holds itself twice, forty levels over: nothing may print, hash, compare or copy that."""
STATES = {
    f"a state of {kind} without end for {made}": begun + state + b"b"
    for made, begun in (
        ("an array", call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), row(lit(0)), raw(b"b"))),
        ("a dtype", dtype("f8")),
        ("a mapping", call("collections.OrderedDict")),
    )
    for kind, state in (("lists", lists(40)), ("tuples", tuples(40)), ("rows", row(*[tuples(40)] * 5)))
}


def referring(place, dag):
    """A storage's persistent id with one of its parts replaced."""
    parts = [lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(4), row(lit("1"), lit(0), lit(1))]
    parts[place] = dag
    return parts


REFERENCES = {
    f"part {place} of a reference is {kind} without end{where}": write(referring(place, dag))
    for place in range(6)
    for kind, dag in (("lists", lists(40)), ("tuples", tuples(40)))
    for where, write in (
        ("", lambda parts: archive(whole(row(*parts[:5]) + b"Q"), data_0=b"\0" * 16)),
        (
            ", in the older layout",
            lambda parts: b"".join(
                [
                    *(pickle.dumps(part, 2) for part in MAGIC),
                    whole(row(*parts) + b"Q"),
                    KEYS,
                    struct.pack("<Q", 4),
                    b"\0" * 16,
                ]
            ),
        ),
    )
}


def again(function, argument, times=1000):
    """A call that is made over and over, with what it is made with kept once."""
    call_ = function + b"q\x40" + argument + b"\x85q\x41" + b"h\x40h\x41R" * times
    return archive(b"\x80\x04(" + call_ + b"l.", packed=True)


def words(size):
    return b"X" + struct.pack("<I", size) + b"a" * size


def alike(number):
    """Whole numbers that hash alike."""
    return [lit_long(sys.hash_info.modulus * (k + 1)) for k in range(number)]


def lit_long(number):
    content = number.to_bytes(10, "little")
    return b"\x8a" + bytes([len(content)]) + content


def older(numbers):
    """A file of torch's older layout, as bytes."""
    parts = [pickle.dumps(part, 2) for part in MAGIC]
    inside = row(lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(numbers), b"N") + b"Q"
    behind = struct.pack("<Q", numbers) + bytes(4 * numbers)
    return raw(b"".join([*parts, b"\x80\x02" + inside + b".", pickle.dumps(["0"], 2), behind]))


MB = 1 << 20
VIEW = b"".join(
    [
        name("torch._utils._rebuild_tensor_v2") + b"q\x40",
        row(
            row(lit("storage"), name("torch.FloatStorage"), lit("0"), lit("cpu"), lit(4)) + b"Q",
            *(lit(0), lit((4,)), lit((1,)), lit(False), b"N"),
        ),
        b"q\x41",
    ]
)
BOMBS = {
    "sets": lambda: archive(b"\x80\x04" + b"\x8f" * 9_900_000 + b".", packed=True),
    "marks": lambda: archive(b"\x80\x04" + b"(" * 9_900_000 + b".", packed=True),
    "tensors of one storage": lambda: archive(
        b"\x80\x02" + VIEW + b"h\x40h\x41R" * 3_200_000 + b".", packed=True, data_0=bytes(16)
    ),
    "bytes of words again": lambda: again(name("_codecs.encode"), words(50 * MB)),
    "rows again": lambda: again(name("torch.Size"), b"](" + b"N" * 4_000_000 + b"e"),
    "mappings again": lambda: again(
        name("collections.OrderedDict"),
        b"}(" + b"".join(b"J" + struct.pack("<i", k) + b"N" for k in range(500_000)) + b"u",
    ),
    "settings again": lambda: archive(
        b"\x80\x02}("
        + b"".join(lit(str(k)) + b"N" for k in range(400_000))
        + b"uq\x40"
        + name("argparse.Namespace")
        + b"q\x41"
        + b"h\x41)\x81h\x40b" * 200_000
        + b".",
        packed=True,
    ),
    "rows of settings again": lambda: archive(
        b"\x80\x02]("
        + b"N" * 2_000_000
        + b"eq\x40"
        + name("argparse.Namespace")
        + b")\x81}("
        + b"".join(lit(str(k)) + b"h\x40" for k in range(100_000))
        + b"ub.",
        packed=True,
    ),
    "sets again": lambda: again(
        name("builtins.set"), b"](" + b"".join(b"J" + struct.pack("<i", k) for k in range(500_000)) + b"e"
    ),
    "a file in the file again": lambda: again(
        name("torch.storage._load_from_bytes"), raw(b"\x80\x02" + b"N0" * 2_000_000 + b"N.")
    ),
    "a storage in the file again": lambda: again(name("torch.storage._load_from_bytes"), older(12 * MB)),
    "long names again": lambda: archive(
        b"\x80\x04" + words(30 * MB) + b"q\x40" + lit("os") + b"q\x41" + b"h\x40h\x41\x93" * 1000 + b".", packed=True
    ),
    "long names of networks again": lambda: archive(
        b"\x80\x04" + words(30 * MB) + b"q\x40" + lit("torch.nn.modules.") + b"q\x41" + b"h\x41h\x40\x93" * 1000 + b".",
        packed=True,
    ),
    "keys that hash alike": lambda: b"\x80\x02}(" + b"".join(key + b"N" for key in alike(200_000)) + b"u.",
    "one after the other": lambda: b"\x80\x02}" + b"".join(key + b"Ns" for key in alike(200_000)) + b".",
    "rows that hash alike": lambda: b"\x80\x02}(" + b"".join(key + b"\x85N" for key in alike(200_000)) + b"u.",
    "complex numbers that hash alike": lambda: (
        b"\x80\x02"
        + name("builtins.complex")
        + b"q\x40}("
        + b"".join(
            b"h\x40G" + struct.pack(">d", -1000003.0 * k) + b"G" + struct.pack(">d", k) + b"\x86RN"
            for k in range(100_000)
        )
        + b"u."
    ),
    "a set of them": lambda: b"\x80\x02" + name("builtins.set") + b"](" + b"".join(alike(200_000)) + b"e\x85R.",
    "a frozen set of them": lambda: b"\x80\x04(" + b"".join(alike(200_000)) + b"\x91.",
    "places that hash alike": lambda: (
        b"N" + b"".join(b"p%d\n" % (sys.hash_info.modulus * k) for k in range(200_000)) + b"."
    ),
    "code beside pickles without end": lambda: archive(
        whole(name("os.system")), packed=True, more_pkl=b"N." * (100 * MB)
    ),
}
"""Small files, or small parts of one, that would take all memory or for ever; made when they are read, since some pack 100 MB."""
FILES = {
    "a storage smaller than claimed": archive(on_storage(1 << 28, (1 << 28,)), data_0=b"\0" * 60),
    "a storage larger than claimed": archive(on_storage(2, (2,)), data_0=b"\0" * 60),
    "a tensor larger than its storage": archive(on_storage(4, (1 << 28,)), data_0=b"\0" * 16),
    "a storage that is not there": archive(on_storage(4, (4,))),
    "a storage outside": archive(on_storage(4, (4,), key="../../../etc/passwd")),
    "a storage under no name": archive(on_storage(4, (4,)).replace(lit("0"), lit(None), 1)),
    "a storage of no kind": archive(on_storage(4, (4,), "torch.Size"), data_0=b"\0" * 16),
    "a storage of less than nothing": archive(on_storage(-4, (4,)), data_0=b"\0" * 16),
    "numbers the other way around": archive(on_storage(4, (4,)), byteorder=b"big", data_0=b"\0" * 16),
    "no objects": archive(b""),
    "an older storage without end": stream(1 << 40, (4,), KEYS, struct.pack("<Q", 1 << 40)),
    "an older storage that is short": stream(4, (4,), KEYS, struct.pack("<Q", 4), b"\0" * 8),
    "an older storage of another length": stream(4, (4,), KEYS, struct.pack("<Q", 9), b"\0" * 64),
    "older keys of nothing": stream(4, (4,), pickle.dumps(["7"], 2), struct.pack("<Q", 4), b"\0" * 16),
    "no older keys": stream(4, (4,)),
    "no more than a beginning": pickle.dumps(MAGIC[0], 2),
    "a tar": tar(whole(b"N")),
    "an empty zip": b"PK\x05\x06" + b"\0" * 18,
    "values without end, packed": archive(b"\x80\x04" + b"N" * 40_000_000 + b".", packed=True),
    **REFERENCES,
}

LOADS = """
import json, os, resource, signal, sys
import noiseshift as ns
from noiseshift.checkpoints import load

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for line in sys.stdin:
    path = line[:-1]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, 20)  # of its own work, however busy the machine is
        signal.alarm(200)  # a file may be waited for too
        try:
            load(path, family="sit")
            said = "a model"
        except ns.CheckpointError as error:
            said = f"refused: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:60000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    _, status, used = os.wait4(child, 0)
    said = said if not status else f"signal {status & 127}"
    gigabytes = used.ru_maxrss / 2**20
    print(json.dumps(said if gigabytes < 2.5 else f"{gigabytes:.1f} GB"), flush=True)
"""
"""Reads each file that it is told of in a process of its own, and says in a line what became of it."""


@pytest.fixture(scope="module")
def became(tmp_path_factory):
    """What became of files, by name: a function of their contents."""
    folder = tmp_path_factory.mktemp("crafted")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOADS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as reader:

        def of(contents):
            found = {}
            for case, content in contents.items():
                path = folder / f"{len(list(folder.iterdir()))}.pt"
                path.write_bytes(content)
                print(path, file=reader.stdin, flush=True)
                found[case] = json.loads(reader.stdout.readline())
            return found

        yield of
        reader.stdin.close()


@pytest.fixture(scope="module")
def outcomes(became):
    """What became of every file."""
    return became({**{key: whole(part) for key, part in (PLAIN | ARGUMENTS | STATES).items()}, **FILES})


def test_settings_are_plain_values_and_nothing_else(tmp_path):
    from noiseshift.checkpoints.files import read_content

    state = {"steps": 1000, "rate": 1e-4, "name": "toy", "flag": True, "none": None, "row": [1, 2], "pair": ("a", 2)}
    inner = {"inner": argparse.Namespace(beta=0.02), "map": {"a": 1, "b": torch.ones(1)}}
    state |= inner | {"weights": torch.ones(2), "rows": [[1], [2]], "object": torch.float32}
    torch.save({"ema": torch.ones(3), "args": argparse.Namespace(**state)}, tmp_path / "x.pt")
    held = read_content(tmp_path / "x.pt")["args"]
    kept = ("steps", "rate", "name", "flag", "none", "pair")
    assert held == {name: state[name] for name in kept} | {"row": (1, 2), "inner": {"beta": 0.02}, "map": {"a": 1}}


def test_the_sound_ones_are_read(tmp_path):
    """Or the others would be refused for how they are written."""
    from noiseshift.checkpoints.files import read_content

    sound = {
        "plain.pt": (whole(tensor(stored(), 1, (2,), (2,))), [1, 3]),
        "array.pt": (whole(filled(F8, row(lit(2)), raw(struct.pack("<2d", 1, 3)))), [1, 3]),
        "zip.pt": (archive(on_storage(2, (2,)), data_0=struct.pack("<2f", 1, 3)), [1, 3]),
        "old.pt": (stream(2, (2,), pickle.dumps(["0"], 2), struct.pack("<Q2f", 2, 1, 3)), [1, 3]),
    }
    for file, (content, numbers) in sound.items():
        (tmp_path / file).write_bytes(content)
        assert read_content(tmp_path / file)["ema"].tolist() == numbers


@pytest.mark.parametrize("case", [*PLAIN, *STATES, *FILES])
def test_a_crafted_pickle_ends_in_one_line(case, outcomes):
    said = outcomes[case]
    assert said.startswith("refused: "), said
    assert "\n" not in said
    assert ".pt" in said, "the file is named"


@pytest.mark.parametrize("group", range(8))
def test_a_bomb_ends_in_one_line(group, became):
    """A few at a time, which goes on several processors."""
    found = became({case: BOMBS[case]() for case in [*BOMBS][group::8]})
    assert all(said.startswith("refused: ") and "\n" not in said and ".pt" in said for said in found.values()), found


@pytest.mark.parametrize("case", ARGUMENTS)
def test_no_name_that_is_known_takes_for_ever_over_its_arguments(case, outcomes):
    """Some make a tensor or a mapping of them all the same: then it is no state dict, or one without end."""
    said = outcomes[case]
    assert said.startswith("refused: "), said
    assert "\n" not in said
