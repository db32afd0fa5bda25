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
    **dict.fromkeys((".csv", ".tsv", ".json", ".jsonl", ".xlsx"), TABLE),
    **dict.fromkeys((".mat",), f"a MATLAB file: {WRITE}"),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"a TFRecord file: {WRITE}"),
    **dict.fromkeys((".mdb", ".lmdb"), f"an LMDB database: {WRITE}"),
    **dict.fromkeys((".safetensors",), f"a file of tensors without their meaning: {WRITE}"),
    **dict.fromkeys(SUFFIXES, "one picture: give its folder"),
}
"""How files' names end, and what they are. An LMDB and some tar files have no start of their own."""


def other_kind(path: Path, start: bytes) -> str | None:
    """What a file is, and what to do with it, where it is of a kind that is not read; None for arrays and unknown files.

    Args:
        path: The file; its name is looked at.
        start: Its first bytes, 16 are enough.
    """
    ending = path.suffix.lower()
    if ending in (".npz", ".npy"):
        return None
    found = next((what for head, what in STARTS if start.startswith(head)), None)
    return found or ENDINGS.get(ending)


def in_words(names: Iterable[str]) -> str:
    """The kinds of files that are there, for one line: "3 .parquet, 1 .md"; empty where there are none.

    Args:
        names: Of files.
    """
    counts = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(3))
