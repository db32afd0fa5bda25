"""Archives, which may not unpack to far more than their own size."""

from __future__ import annotations

import zipfile
import zlib

from noiseshift.reading.boundary import MB, Name, ReadingError, opened, require_room, size_of

LARGE = 512 * MB
"""What a compressed file may always unpack to; beyond it, to no more than RATIO times its own size."""

RATIO = 200


def check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that unpacks to far more than its size, names a member twice, or packs in an odd way.

    Reading a member never gives more than it declares, so what is declared is what is checked.

    Args:
        archive: The open archive.
        size: Bytes of its file. It may unpack to 512 MB, or to 200 times its size where that is more.

    Raises:
        ReadingError: The archive is refused; says why.
    """
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ReadingError(f"{archive.filename} names a part of it twice: fetch it again")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ReadingError(f"{archive.filename} is packed by another method than zip's usual ones: pack it again")
    whole = sum(member.file_size for member in members)
    if whole > max(LARGE, RATIO * size):
        raise ReadingError(
            f"{archive.filename} unpacks to {whole / MB:,.0f} MB from {size / MB:,.1f}: refused as a bomb"
        )
    if any(member.compress_type == zipfile.ZIP_STORED and member.file_size > size for member in members):
        raise ReadingError(f"{archive.filename} claims parts larger than itself: fetch it again")


def gunzip(path: Name, what: str, remedy: str, *, most: int | None = None) -> bytes:
    """What a gzip file unpacks to.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        most: Largest unpacked size in bytes; None for 512 MB, or 200 times the file's size where that is more.

    Raises:
        ReadingError: The file is missing, damaged, or unpacks to more.
    """
    with opened(path, what, remedy) as file:
        most = max(LARGE, RATIO * size_of(file)) if most is None else most
        found = bytearray()
        require_room(size_of(file))
        packed = file.read()
        while packed:  # a gzip file may be several in a row
            unpacker = zlib.decompressobj(wbits=31)
            found += unpacker.decompress(packed, most + 1 - len(found))
            if len(found) > most:
                raise ReadingError(f"{path} unpacks to more than {most / MB:,.0f} MB: {remedy}")
            if not unpacker.eof:
                raise ValueError("it ends early")
            packed = unpacker.unused_data.lstrip(b"\0")
        return bytes(found)
