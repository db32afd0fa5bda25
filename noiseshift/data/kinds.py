"""Files that are no image set of ours: what they are, and how their pictures come to be one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from noiseshift.data.pictures import SUFFIXES

WRITE = "write its pictures with numpy.savez(path, images=..., labels=...), or as a folder per class"
UNPACK = "unpack it, and give the folder"
TABLE = f"a table: {WRITE}"
CODE = f"which can run code and is not opened: {WRITE}"

STARTS = (
    (b"PAR1", f"a Parquet file: {WRITE}"),
    (b"ARROW1", f"an Arrow file: {WRITE}"),
    (b"\x89HDF", f"an HDF5 file: {WRITE}"),
    (b"MATLAB", f"a MATLAB file: {WRITE}"),
    (b"\x1f\x8b", f"a gzip archive: {UNPACK}"),
    (b"7z\xbc\xaf", f"a 7z archive: {UNPACK}"),
    (b"Rar!", f"a RAR archive: {UNPACK}"),
    (b"BZh", f"a bzip2 archive: {UNPACK}"),
    (b"\xfd7zXZ", f"an xz archive: {UNPACK}"),
    *((bytes([0x80, protocol]), f"a pickle, {CODE}") for protocol in range(2, 6)),
)
"""First bytes of files, and what they are."""

ENDINGS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt"), f"a PyTorch file, {CODE}"),
    **dict.fromkeys((".pkl", ".pickle"), f"a pickle, {CODE}"),
    **dict.fromkeys((".tar", ".tgz"), f"a tar archive: {UNPACK}"),
    **dict.fromkeys((".bin", ".dat", ".raw"), f"raw bytes whose meaning is not known: {WRITE}"),
    **dict.fromkeys((".csv", ".tsv", ".json", ".jsonl", ".xlsx"), TABLE),
    **dict.fromkeys((".mat",), f"a MATLAB file: {WRITE}"),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"a TFRecord file: {WRITE}"),
    **dict.fromkeys((".mdb", ".lmdb"), f"an LMDB database: {WRITE}"),
    **dict.fromkeys((".safetensors",), f"a file of tensors without their meaning: {WRITE}"),
    **dict.fromkeys(SUFFIXES, "one picture: give its folder"),
}
"""How files' names end, and what they are. An LMDB and some tar files have no start of their own."""

START = 263
"""Bytes of a file's beginning that are looked at."""


def other_kind(path: Path, start: bytes) -> str | None:
    """What a file is, and what to do with it, where it is of a kind that is not read; None for arrays and unknown files.

    Args:
        path: The file; its name is looked at.
        start: Its first `START` bytes.
    """
    ending = path.suffix.lower()
    if ending in (".npz", ".npy"):
        return None
    if "idx1" in path.name:
        return "labels without their pictures: give the folder, or the images file beside it"
    if start[257:262] == b"ustar":
        return f"a tar archive: {UNPACK}"
    found = next((what for head, what in STARTS if start.startswith(head)), None)
    return found or ENDINGS.get(ending)


def remedy_in_words(name: str, start: bytes) -> str | None:
    """What to do with a set that holds no pictures but files of another kind; None where this file says nothing.

    Args:
        name: One of its files.
        start: Its first `START` bytes.
    """
    ending = PurePosixPath(name).suffix.lower()
    if "idx3-ubyte" in name or "idx1-ubyte" in name:
        return f"{name} is of an idx set: unpack it, and give the folder in which its files are"
    if ending in (".zip", ".npz"):
        return f"give {name} itself"
    if ending == ".npy":
        return "put its arrays together with numpy.stack, in one file"
    kind = other_kind(Path(name), start)
    return None if kind is None else f"{name} is {kind}"


def in_words(names: Iterable[str]) -> str:
    """The kinds of files that are there, for one line: "3 .parquet, 1 .md"; empty where there are none.

    Args:
        names: Of files.
    """
    counts = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(3))
