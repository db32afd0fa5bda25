"""Files that lie, are none, or unpack without end: each is one line that names the file."""

import errno
import gzip
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from limits import limited
from safetensors.torch import save_file

from noiseshift import reading
from noiseshift.checkpoints.diffusers.parts import _require_plausible
from noiseshift.checkpoints.unpickling.reader import read_pickled
from noiseshift.data.idx import load_files
from noiseshift.reading import ReadingError, boundary
from noiseshift.reading.remedies import NO_FAULT_OF_THE_FILE, REMEDIES
from noiseshift.writing.signatures import CHECKPOINT, signed_checkpoint

SAID = ("thing", "make it again")
READERS = {
    "json": reading.read_json,
    "yaml": reading.read_yaml,
    "npz": reading.read_arrays,
    "parquet": reading.read_table,
    "safetensors": reading.read_safetensors,
    "gz": reading.gunzip,
}


def refused(kind, path):
    with pytest.raises(ReadingError) as caught:
        READERS[kind](path, *SAID)
    message = str(caught.value)
    assert str(path) in message, "the file is named"
    assert "make it again" in message or "again" in message or "bomb" in message, "the remedy is"
    assert "\n" not in message
    return message


@pytest.fixture
def whole(tmp_path):
    """A sound file of every kind."""
    (tmp_path / "x.json").write_text('{"a": [1, {"b": null}]}')
    (tmp_path / "x.yaml").write_text("a: &x [1, 2]\nb: *x\n")
    np.savez_compressed(
        tmp_path / "x.npz", a=np.arange(6.0).reshape(2, 3), f=np.asfortranarray(np.eye(2)), w=np.array("w")
    )
    pd.DataFrame({"t": [0.5, 0.1], "n": [1, 2]}).to_parquet(tmp_path / "x.parquet")
    save_file({"a": torch.arange(3.0)}, tmp_path / "x.safetensors", metadata={"said": "so"})
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"abc") + gzip.compress(b"def"))
    return tmp_path


def test_sound_files_come_back(whole):
    assert reading.read_json(whole / "x.json", *SAID) == {"a": [1, {"b": None}]}
    assert reading.read_yaml(whole / "x.yaml", *SAID) == {"a": [1, 2], "b": [1, 2]}
    arrays = reading.read_arrays(whole / "x.npz", *SAID)
    np.testing.assert_array_equal(arrays["a"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(arrays["f"], np.eye(2))
    assert str(arrays["w"]) == "w"
    assert list(reading.read_arrays(whole / "x.npz", *SAID, only=["a", "none"])) == ["a"]
    assert reading.names_in_arrays(whole / "x.npz", *SAID) == ["a", "f", "w"]
    assert reading.read_table(whole / "x.parquet", *SAID)["n"].tolist() == [1, 2]
    tensors, words = reading.read_safetensors(whole / "x.safetensors", *SAID)
    assert (tensors["a"].tolist(), words) == ([0, 1, 2], {"said": "so"})
    assert reading.gunzip(whole / "x.gz", *SAID) == b"abcdef"


@pytest.mark.parametrize("kind", list(READERS))
def test_what_is_no_file_is_refused_at_once(kind, whole):
    """A pipe would be waited for, a device read for ever; a file of /proc has no size."""
    os.mkfifo(whole / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(whole / "socket"))
    (whole / "empty").touch()
    (whole / "folder").mkdir()
    (whole / "link").symlink_to("/dev/zero")
    for name in ("pipe", "socket", "empty", "folder", "link", "/dev/zero", "/proc/self/status", "missing"):
        refused(kind, whole / name)
    server.close()


@pytest.mark.parametrize("kind", list(READERS))
def test_a_pipe_that_takes_the_name_of_a_file_is_not_waited_for(kind, tmp_path, monkeypatch):
    """Something else may lie there once a file was looked at: what is opened is looked at once more."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    monkeypatch.setattr("noiseshift.reading.boundary.regular", lambda path, *_: Path(path))
    with limited(10):
        assert "a pipe" in refused(kind, tmp_path / "pipe")
        assert "a device" in refused(kind, tmp_path / "device")


@pytest.mark.parametrize("kind", list(READERS))
def test_every_cut_is_one_line(kind, whole):
    content = (whole / f"x.{kind}").read_bytes()
    path = whole / f"cut.{kind}"
    said = []
    for length in range(1, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            READERS[kind](path, *SAID)
        except ReadingError as error:
            said.append(str(error))
    assert said
    assert all(str(path) in line and "\n" not in line for line in said)
    for content in (b"\xff\xfe\x00", b"\0" * 40, b"PK\x03\x04" + b"\0" * 60, b"PAR1" + b"\xff" * 40 + b"PAR1"):
        path.write_bytes(content)
        refused(kind, path)


def test_yaml_whose_keys_hash_alike_is_refused(tmp_path):
    """Python's whole numbers hash to what is left of them by 2^61 - 1: these all to nothing, and 4 MB of them took minutes."""
    alike = [f"{sys.hash_info.modulus * (k + 1)}" for k in range(5000)]
    for content in ("".join(f"{key}:\n" for key in alike), "a: !!set {" + ", ".join(alike) + "}"):
        (tmp_path / "x.yaml").write_text(content)
        refused("yaml", tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text(f"{alike[0]}: 1\n7: 2\n")
    assert reading.read_yaml(tmp_path / "x.yaml", *SAID) == {sys.hash_info.modulus: 1, 7: 2}


def laughs(levels, width=10):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(12),
        "\n".join(
            ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12))]
        ),
        "a: &a [*a]",
        "[" * 5000 + "]" * 5000,
        "a: " + "{b: " * 300 + "1" + "}" * 300,
        "when: 2001-99-99",
        "number: " + "9" * 5000,
        "- !!python/object/apply:os.system [touch owned]",
        "? [a, b]\n: 1",
        "a: b: c",
        "a: 1\n---\nb: 2",
    ],
)
def test_yaml_that_grows_nests_or_calls_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    if text.startswith("?"):  # a key that is a row
        text = None
    refused("yaml", tmp_path / "x.yaml")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 200 + "1" + "}" * 200, "9" * 5000, "[1,2", "nul", "\ud800"])
def test_json_that_nests_or_breaks_off_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text, errors="surrogatepass")
    refused("json", tmp_path / "x.json")


def npy(header, data=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }", b"\0" * 8),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", b"\0" * 8),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 16),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", b"\0" * 8),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }", b"\0" * 8),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N."),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        npy("{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (99999999999,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (((((1,),),),),), }", b"\0" * 8),
        npy("(" * 5000),
        npy("__import__('os').system('touch owned')"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_arrays_that_claim_what_they_are_not_are_refused(member, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", member)
    refused("npz", tmp_path / "x.npz")
    assert not (tmp_path / "owned").exists()


def test_what_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(reading.archives, "LARGE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 22))
    assert "unpacks to" in refused("npz", tmp_path / "x.npz")
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(1 << 22)))
    assert "unpacks to" in refused("gz", tmp_path / "x.gz")
    # A member that declares less than it holds is cut off at what it declares, and is then damaged.
    data = bytearray((tmp_path / "x.npz").read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 100)
    (tmp_path / "x.npz").write_bytes(data)
    refused("npz", tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["gz", "npy", "pickle", "old", "idx"])
def test_a_file_larger_than_memory_is_refused_before_it_is_read(kind, tmp_path, monkeypatch):
    """One without contents takes no room on the disk, and all of memory."""
    monkeypatch.setattr("noiseshift.diffusion.memory.free_memory", lambda: 1 << 26)
    path = tmp_path / "x.pt"
    storage = (
        b"(X\x07\0\0\0storagectorch\nByteStorage\nX\1\0\0\0"
        + b"0X\3\0\0\0cpu\x8a\x06"
        + struct.pack("<Q", 1 << 27)[:6]
        + b"NtQ."
    )
    start = {
        "gz": b"\x1f\x8b\x08",
        "npy": npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({1 << 27},)}}"),
        "pickle": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 27),
        "old": b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        + b"\x80\x02"
        + storage
        + pickle.dumps(["0"], 2)
        + struct.pack("<Q", 1 << 27),
        "idx": b"\0\0\x08\x03",
    }[kind]
    path.write_bytes(start)
    os.truncate(path, len(start) + (1 << 27))
    read = {
        "gz": lambda: reading.gunzip(path, *SAID),
        "npy": lambda: reading.read_array(path, *SAID),
        "pickle": lambda: read_pickled(path),
        "old": lambda: read_pickled(path),
        "idx": lambda: load_files(path.rename(tmp_path / "x-images-idx3-ubyte")),
    }[kind]
    with pytest.raises(ReadingError, match=r"takes more memory than is free here: free some, or \w+"):
        read()


def test_a_name_twice_and_other_packings_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    for method, times in ((zipfile.ZIP_LZMA, 1), (zipfile.ZIP_BZIP2, 1), (zipfile.ZIP_STORED, 2)):
        with zipfile.ZipFile(path, "w", method) as archive, pytest.warns() if times > 1 else open(os.devnull):
            for _ in range(times):
                archive.writestr("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", b"\0" * 8))
        refused("npz", path)


def test_a_table_of_more_rows_than_its_bytes_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading.arrays, "ROWS", 1000)
    pd.DataFrame({"a": np.zeros(1_000_000, np.int8)}).to_parquet(tmp_path / "x.parquet", compression="gzip")
    assert "too many for its size" in refused("parquet", tmp_path / "x.parquet")


def header(about, size=0):
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


@pytest.mark.parametrize(
    "content",
    [
        header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, 8),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}, 12),
        header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}}, 16),
        header({"a": {"dtype": "F32", "shape": [-3], "data_offsets": [0, 12]}}, 12),
        header({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "F99", "shape": [3], "data_offsets": [0, 12]}}, 12),
        header({"__metadata__": {"a": 1}}),
        header([]),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
    ],
)
def test_safetensors_whose_header_lies_are_refused(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused("safetensors", tmp_path / "x.safetensors")


def test_what_is_bounded_is_counted_as_often_as_it_is_referred_to():
    row = [0] * 10
    for _ in range(5):
        row = [row] * 10
    with pytest.raises(ValueError, match="values"):
        reading.bounded(row, most=10**5)
    assert reading.bounded(row, most=10**7) is row
    row = []
    row.append(row)
    with pytest.raises(ValueError, match="holds itself"):
        reading.bounded(row)
    row = {"a": [1, 2]}
    assert reading.bounded({"b": row, "c": [row, row]})
    deep = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        reading.bounded(deep)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ValueError("3 bytes\nand more"), "weights.pt is damaged or no model: fetch it again (ValueError: 3 bytes)"),
        (ValueError("\x1b[31mred"), "weights.pt is damaged or no model: fetch it again (ValueError: [31mred)"),
        (EOFError(), "weights.pt is damaged or no model: fetch it again (EOFError)"),
        (OSError("no zip"), "weights.pt is damaged or no model: fetch it again (OSError: no zip)"),
        (MemoryError(), "weights.pt takes more memory than is free here: free some, or fetch it again"),
        (OSError(errno.EIO, "Broken", "{folder}/weights.pt"), "weights.pt cannot be read (broken): fetch it again"),
        (FileNotFoundError(2, "No such file", "{folder}/part-2.pt"), "no model at {folder}/part-2.pt: fetch it again"),
        (
            FileNotFoundError(2, "No such file", "/usr/lib/libc10.so"),
            "weights.pt was not read, since /usr/lib/libc10.so was not (no such file): see to that file first",
        ),
        (
            OSError(errno.EMFILE, "Too many open files", "/usr/lib/x.py"),
            "weights.pt was not read, since /usr/lib/x.py was not (too many open files): see to that file first",
        ),
    ],
)  # fmt: skip
def test_what_a_library_says_is_kept_and_no_file_takes_the_blame_of_another(found, said, tmp_path):
    if isinstance(getattr(found, "filename", None), str):
        found.filename = found.filename.replace("{folder}", str(tmp_path))
    with pytest.raises(ReadingError) as caught, reading.reading(tmp_path / "weights.pt", "model", "fetch it again"):
        raise found
    assert str(caught.value).endswith(said.replace("{folder}", str(tmp_path)))
    assert caught.value.__cause__ is found


@pytest.mark.parametrize("number", sorted(NO_FAULT_OF_THE_FILE))
def test_what_is_no_fault_of_the_file_is_not_mended_by_making_it_again(number, tmp_path):
    found = OSError(number, os.strerror(number), str(tmp_path / "weights.pt"))
    with pytest.raises(ReadingError) as caught, reading.reading(tmp_path / "weights.pt", "model", "train it again"):
        raise found
    assert str(caught.value).endswith(f"weights.pt cannot be read ({os.strerror(number).lower()}): {REMEDIES[number]}")


def test_a_missing_library_is_no_damage(tmp_path):
    with (
        pytest.raises(ModuleNotFoundError, match="No module named 'safe'"),
        reading.reading(tmp_path, "model", "fetch it again"),
    ):
        raise ModuleNotFoundError("No module named 'safe'")


WITHOUT_MEMORY = """
import os, resource, signal, sys
import pandas, pyarrow.parquet, pyarrow.types
from noiseshift import reading

for more in (0, 2, 6, 8, 10, 12):
    child = os.fork()
    if not child:
        signal.alarm(5)
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (more << 20),) * 2)
        try:
            said = f"read {len(reading.read_table(sys.argv[1], 'thing', 'make it again'))}"
        except reading.ReadingError as error:
            said = f"refused: {error}"
        os.write(1, f"{said}\\n".encode())
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("it hung or crashed", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are Linux's")
def test_a_table_is_read_where_no_thread_can_be_started(tmp_path):
    """pyarrow waits for the threads that a limit of processes or of memory denies it: for ever, or it ends the process, or a sound
    file is called damaged."""
    table = pd.DataFrame({f"column {k}": np.arange(50.0) for k in range(15)}, index=np.arange(50) * 2)
    table.to_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(reading.read_table(tmp_path / "x.parquet", *SAID), table)
    words = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path / "x.parquet")]  # one whose pyarrow has no threads yet
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 6
    assert all(line == "read 50" or "takes more memory" in line for line in said), said


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="names of open files are not Windows'")
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link", "another file", "nothing"])
@pytest.mark.parametrize(
    "reader",
    [
        lambda path: reading.read_safetensors(path, *SAID)[0]["a"].tolist() == [0, 1, 2],
        signed_checkpoint,
        lambda path: _require_plausible(path.parent) is None,
    ],
)
def test_what_takes_the_place_of_safetensors_that_are_open_is_not_read(kind, reader, tmp_path, monkeypatch):
    """The library opens a file by name that was looked at before."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(3.0)}, path, metadata={CHECKPOINT: "1"})
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    monkeypatch.setattr("noiseshift.reading.arrays.AT_ONCE", 0)
    open_really = boundary.open_ordinary

    def opened_and_replaced(name):
        file = open_really(name)
        if Path(name) == path:
            path.unlink()
            if kind == "a pipe":
                os.mkfifo(path)
            elif kind == "a folder":
                path.mkdir()
            elif kind == "a link":
                path.symlink_to("/dev/zero")
            elif kind == "another file":
                save_file({"a": torch.zeros(3)}, path)
        return file

    for module in ("reading.boundary", "writing.signatures"):
        monkeypatch.setattr(f"noiseshift.{module}.open_ordinary", opened_and_replaced)
    with limited(20):
        assert reader(path)


def test_safetensors_are_the_same_however_large_they_are(tmp_path, monkeypatch):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([True, False]),
        "c": torch.zeros(0, 3, dtype=torch.float16),
        "d": torch.tensor(7, dtype=torch.int64),
        "e": torch.ones(3, dtype=torch.bfloat16),
    }
    for words in (None, {"said": "so, \u03b4", "n": "1"}):
        save_file(tensors, tmp_path / "x.safetensors", metadata=words)
        monkeypatch.undo()
        small = reading.read_safetensors(tmp_path / "x.safetensors", *SAID)
        monkeypatch.setattr("noiseshift.reading.arrays.AT_ONCE", 0)
        large = reading.read_safetensors(tmp_path / "x.safetensors", *SAID)
        assert small[1] == large[1] == (words or {})
        assert set(small[0]) == set(large[0]) == set(tensors)
        for name, tensor in tensors.items():
            for found in (small[0][name], large[0][name]):
                assert found.dtype == tensor.dtype
                assert torch.equal(found, tensor)


def test_a_file_that_is_cut_off_while_it_is_read_ends_no_process(tmp_path):
    """Read again and again while it is cut and made whole: tensors, or a line."""
    save_file({"a": torch.arange(2e6)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    words = (
        "import sys, time\n"
        "from noiseshift import reading\n"
        "import safetensors.torch\n"
        "print('begun', flush=True)\n"
        "ends = time.monotonic() + 0.7\n"
        "while time.monotonic() < ends:\n"
        "    try:\n"
        "        float(reading.read_safetensors(sys.argv[1], 'thing', 'make it again')[0]['a'].sum())\n"
        "    except reading.ReadingError:\n"
        "        pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", words, str(tmp_path / "x.safetensors")], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        while process.poll() is None:
            (tmp_path / "x.safetensors").write_bytes(whole)
            time.sleep(0.001)
            os.truncate(tmp_path / "x.safetensors", 4096)
    assert process.returncode == 0
