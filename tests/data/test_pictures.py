"""Picture files of every kind: the numbers that a viewer would show, or one line that refuses them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from noiseshift.data import load_images

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
"""Grey from black to white, 16 bit."""
GREY = np.rint(RAMP / 257).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1)


def written(picture, path, **options):
    picture.save(path, **options)
    return path


def png(depth, colour, rows, extra=b""):
    """A PNG that Pillow cannot write; rows are the bytes of each line."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def big(*channels):
    """Lines of 16-bit channels, big-endian."""
    return [row.astype(">u2").tobytes() for row in np.stack(channels, -1).reshape(8, -1)]


OPAQUE = np.full_like(RAMP, 65535)

GREY_FILES = {
    "16-bit.png": lambda path: written(Image.fromarray(RAMP), path),
    "16-bit.tif": lambda path: written(Image.fromarray(RAMP), path),
    "16-bit-lzw.tiff": lambda path: written(Image.fromarray(RAMP), path, compression="tiff_lzw"),
    "16-bit-big-endian.tif": lambda path: written(Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()), path),
    "16-bit-alpha.png": lambda path: path.write_bytes(png(16, 4, big(RAMP, OPAQUE))),
    "16-bit.pgm": lambda path: path.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes()),
    "8-bit.PNG": lambda path: written(Image.fromarray(GREY), path, format="PNG"),
    "8-bit.dib": lambda path: written(Image.fromarray(GREY), path),
    "8-bit.JPE": lambda path: written(Image.fromarray(GREY), path, format="PNG"),
    "8-bit.j2k": lambda path: written(Image.fromarray(GREY), path),
    "8-bit.bmp": lambda path: written(Image.fromarray(GREY), path),
    "8-bit.tif": lambda path: written(Image.fromarray(GREY), path),
    "grey.gif": lambda path: written(Image.fromarray(GREY), path),
    "grey.webp": lambda path: written(Image.fromarray(GREY), path, lossless=True),
    "palette.png": lambda path: written(Image.fromarray(GREY).convert("P"), path),
    "alpha.png": lambda path: written(Image.fromarray(GREY).convert("LA"), path),
    "transparent-colour-unused.png": lambda path: written(
        Image.fromarray(np.where(GREY == 4, 5, GREY).astype(np.uint8)), path, transparency=4
    ),
}


@pytest.mark.parametrize("name", list(GREY_FILES))
def test_a_grey_ramp_is_a_grey_ramp_in_every_file(name, tmp_path):
    GREY_FILES[name](tmp_path / name)
    images = load_images(tmp_path)
    assert images.pixels.shape == (1, 1, 8, 8)
    assert np.abs(images.pixels[0, 0].numpy().astype(int) - GREY).max() <= 1
    assert "grey 8×8" in images.about
    assert ("from 16 bit" in images.about) == name.startswith("16-bit")


COLOUR_FILES = {
    "colour.png": lambda path: written(Image.fromarray(COLOUR), path),
    "colour.tif": lambda path: written(Image.fromarray(COLOUR), path),
    "colour.bmp": lambda path: written(Image.fromarray(COLOUR), path),
    "colour.webp": lambda path: written(Image.fromarray(COLOUR), path, lossless=True),
    "16-bit-colour.png": lambda path: path.write_bytes(
        png(16, 2, big(*np.moveaxis(COLOUR.astype(np.uint16) * 257, 2, 0)))
    ),
    "opaque.png": lambda path: written(Image.fromarray(COLOUR).convert("RGBA"), path),
    "palette.gif": lambda path: written(Image.fromarray(COLOUR).quantize(256), path),
    "cmyk.tif": lambda path: written(Image.fromarray(COLOUR).convert("CMYK"), path),
}


@pytest.mark.parametrize("name", list(COLOUR_FILES))
def test_colours_are_what_a_viewer_shows(name, tmp_path):
    COLOUR_FILES[name](tmp_path / name)
    images = load_images(tmp_path)
    assert images.pixels.shape == (1, 3, 8, 8)
    assert np.abs(images.pixels[0].permute(1, 2, 0).numpy().astype(int) - COLOUR).max() <= 1
    assert ("from 16 bit" in images.about) == name.startswith("16-bit")
    assert ("from CMYK" in images.about) == name.startswith("cmyk")


def test_one_bit_is_black_and_white(tmp_path):
    for name in ("a.png", "b.tif", "c.bmp"):
        Image.fromarray(GREY > 127).save(tmp_path / name)
    images = load_images(tmp_path)
    assert images.pixels.shape == (3, 1, 8, 8)
    assert np.array_equal(images.pixels[:, 0].numpy() == 255, [GREY > 127] * 3)
    assert images.pixels.unique().tolist() == [0, 255]
    assert "all alike" in images.about


def test_white_is_zero_in_some_tiffs(tmp_path):
    def short(tag, value):
        return struct.pack("<HHII", tag, 3, 1, value)

    tags = [
        (256, 8),
        (257, 8),
        (258, 16),
        (259, 1),
        (262, 0),
        (273, 8 + 2 + 9 * 12 + 4),
        (277, 1),
        (278, 8),
        (279, 128),
    ]
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    body = head + b"".join(short(*tag) for tag in tags) + b"\0\0\0\0" + (65535 - RAMP).astype("<u2").tobytes()
    (tmp_path / "white-is-zero.tif").write_bytes(body)
    assert np.abs(load_images(tmp_path).pixels[0, 0].numpy().astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, suffix):
    wide = np.zeros((16, 24, 3), np.uint8)
    wide[:, 12:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    options = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(wide).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    images = load_images(tmp_path)
    assert images.pixels.shape[2:] == (24, 16)
    assert images.pixels[0, :, :10].float().mean() < 10
    assert images.pixels[0, :, 14:].float().mean() > 245


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.png", "PNG")])
def test_the_first_frame_is_taken_and_that_is_said(tmp_path, name, kind):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / name, format=kind, save_all=True, append_images=frames[1:], **options)
    images = load_images(tmp_path)
    assert images.pixels.shape == (1, 3, 8, 8)
    assert np.abs(images.pixels[0].permute(1, 2, 0).numpy().astype(int) - COLOUR).max() <= 8
    assert "the first frame of several" in images.about


SEE_THROUGH = {
    "rgba.png": lambda path: Image.fromarray(np.dstack([COLOUR, GREY])).save(path),
    "la.png": lambda path: Image.merge("LA", [Image.fromarray(GREY)] * 2).save(path),
    "key.png": lambda path: Image.fromarray(GREY).save(path, transparency=0),
    "palette.png": lambda path: Image.fromarray(GREY).convert("P").save(path, transparency=0),
    "frame.gif": lambda path: Image.fromarray(GREY).convert("P").save(path, transparency=0),
    "rgba.webp": lambda path: Image.fromarray(np.dstack([COLOUR, GREY])).save(path, lossless=True),
    "rgba.tif": lambda path: Image.fromarray(np.dstack([COLOUR, GREY])).save(path),
}


@pytest.mark.parametrize("name", list(SEE_THROUGH))
def test_see_through_pictures_are_refused(name, tmp_path):
    SEE_THROUGH[name](tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} has see-through parts: flatten it"):
        load_images(tmp_path)


UNKNOWN_WHITE = {
    "12-bit.png": RAMP // 16,
    "10-bit.tif": RAMP // 64,
    "8-bit-in-16.png": RAMP // 257,
    "32-bit.tif": RAMP.astype(np.int32),
    "float.tif": (RAMP / 65535).astype(np.float32),
}


@pytest.mark.parametrize("name", list(UNKNOWN_WHITE))
def test_pictures_whose_white_is_not_certain_need_a_range(name, tmp_path):
    values = UNKNOWN_WHITE[name]
    Image.fromarray(values).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"--range") as caught:
        load_images(tmp_path)
    assert "\n" not in str(caught.value)
    images = load_images(tmp_path, limits=(0.0, float(values.max())))
    expected = np.rint(values * (255 / values.max()))
    assert np.abs(images.pixels[0, 0].numpy() - expected).max() <= 1
    with pytest.raises(ValueError, match="outside --range"):
        load_images(tmp_path, limits=(0.0, float(values.max()) / 2))


def test_dark_pictures_beside_light_ones_are_dark(tmp_path):
    Image.fromarray(RAMP // 64).save(tmp_path / "dark.png")
    Image.fromarray(RAMP).save(tmp_path / "light.png")
    images = load_images(tmp_path)
    assert images.pixels.amax((1, 2, 3)).tolist() == [4, 255]


def test_8_bit_files_that_are_all_dark_are_read_as_they_are_and_that_is_said(tmp_path):
    Image.fromarray(GREY // 128).save(tmp_path / "mask.png")
    images = load_images(tmp_path)
    assert images.pixels.unique().tolist() == [0, 1]
    assert "no brighter than 1 of 255 (is that white? --range 0,1)" in images.about
    assert load_images(tmp_path, limits=(0.0, 1.0)).pixels.unique().tolist() == [0, 255]


def test_a_black_picture_is_black(tmp_path):
    Image.fromarray(GREY * 0).save(tmp_path / "a.png")
    assert load_images(tmp_path).pixels.unique().tolist() == [0]


def test_16_bit_and_8_bit_of_one_picture_are_one_picture(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "b.png")
    images = load_images(tmp_path)
    assert np.array_equal(images.pixels[0].numpy(), images.pixels[1].numpy())
    assert "from 16 bit (1 of them)" in images.about


def test_16_bit_colours_of_fewer_bits_are_refused_as_grey_ones_are(tmp_path):
    rows = (COLOUR.astype(np.uint16) * 16).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(16, 2, [row.tobytes() for row in rows]))
    with pytest.raises(ValueError, match=r"largest value in .* where white would be 65535.*write them with 8 bit"):
        load_images(tmp_path)


def cut(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()[:-700]


DAMAGED = {
    "empty.png": b"",
    "text.jpg": b"<html>not found</html>",
    "cut.png": cut("PNG"),
    "cut.jpg": cut("JPEG"),
    "cut.tif": cut("TIFF"),
    "cut.bmp": cut("BMP"),
    "header.gif": b"GIF89a",
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "huge.png": png(8, 0, [bytes(8)] * 8).replace(struct.pack(">II", 8, 8), struct.pack(">II", 60000, 60000), 1),
    "large.bmp": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24) + bytes(24),
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_damaged_and_hostile_files_are_one_line(name, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "good.png")
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=f"{name} is not a readable picture") as caught:
        load_images(tmp_path)
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)  # no object of ours in it


def test_every_damaged_file_is_counted(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png is not a readable picture .* \(and 2 more such files\)"):
        load_images(tmp_path)


def test_mutated_pictures_load_or_are_one_line(tmp_path):
    """Bits turned in every kind of file: never anything but pixels or a ValueError of one line."""
    rng, said, loaded = np.random.default_rng(0), [], 0
    for name, write in (GREY_FILES | COLOUR_FILES).items():
        path = tmp_path / name
        write(path)
        whole = path.read_bytes()
        for _ in range(8):
            raw = bytearray(whole)
            for place in rng.integers(0, min(len(raw), 200), 3):
                raw[place] = rng.integers(256)
            path.write_bytes(bytes(raw))
            try:
                loaded += len(load_images(tmp_path))
            except ValueError as error:
                said.append(str(error))
        path.unlink()
    assert loaded
    assert said
    assert not [line for line in said if "\n" in line]


def test_pictures_that_are_more_than_memory_has_free_are_refused_after_the_first(tmp_path, monkeypatch):
    for number in range(4):
        Image.fromarray(np.zeros((3000, 3000), np.uint8)).save(tmp_path / f"{number}.png")
    load_images(tmp_path)
    monkeypatch.setattr("noiseshift.diffusion.memory.free_memory", lambda: 1 << 26)
    with pytest.raises(ValueError, match="more than is free here: give fewer or smaller pictures"):
        load_images(tmp_path)
