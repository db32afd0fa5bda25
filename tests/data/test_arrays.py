"""npz and npy files: what their names, types and shapes say is taken; what they do not say is refused."""

import numpy as np
import pytest
import torch

from noiseshift.data import load_images

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 5, 7), dtype=np.uint8)
UNIT = (BYTES / 255).astype(np.float32)


def stored(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize("name", ["images", "arr_0", "pictures"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "NHW1"])
def test_bytes_in_any_layout(tmp_path, name, layout):
    arrays = {"NHW": BYTES, "NHWC": BYTES[..., None].repeat(3, 3), "NCHW": BYTES[:, None], "NHW1": BYTES[..., None]}
    images = load_images(stored(tmp_path, **{name: arrays[layout]}))
    assert images.pixels.shape == (6, 3 if layout == "NHWC" else 1, 5, 7)
    assert np.array_equal(images.pixels[:, 0].numpy(), BYTES)
    assert images.labels is None
    assert len(images[:2]) == 2
    assert images[:2].about == images.about


def test_a_lone_npy_is_a_set_of_images(tmp_path):
    np.save(tmp_path / "set.npy", BYTES)
    assert np.array_equal(load_images(tmp_path / "set.npy").pixels[:, 0].numpy(), BYTES)


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (UNIT, (0.0, 1.0)),
        (UNIT.astype(np.float64), (0.0, 1.0)),
        (UNIT.astype(np.float16), (0.0, 1.0)),
        (2 * UNIT - 1, (-1.0, 1.0)),
        (UNIT - 0.5, (-0.5, 0.5)),
        (255 * UNIT, (0.0, 255.0)),
        (16 * UNIT, (0.0, 16.0)),
        (UNIT[:, None], (0.0, 1.0)),
        (UNIT[..., None].repeat(3, 3), (0.0, 1.0)),
    ],
)
def test_floats_need_a_range_and_are_exact_with_it(tmp_path, values, limits):
    path = stored(tmp_path, images=values)
    with pytest.raises(ValueError, match=r"does not say what black and white are: give --range"):
        load_images(path)
    images = load_images(path, limits=limits)
    assert images.pixels.is_floating_point()
    np.testing.assert_allclose(
        images.floats[:, 0].numpy(), 2 * UNIT - 1, atol=2e-3 if values.dtype == np.float16 else 1e-6
    )
    assert np.array_equal(images.pictures[:, 0].numpy(), BYTES)
    assert f"black {limits[0]:g}, white {limits[1]:g}" in images.about


@pytest.mark.parametrize("limits", [(0.0, 0.5), (0.1, 1.0), (-1.0, 0.9)])
def test_floats_outside_their_range_are_refused(tmp_path, limits):
    with pytest.raises(ValueError, match=r"go from 0 to 0\.9\S*, outside --range"):
        load_images(stored(tmp_path, images=UNIT), limits=limits)


def test_floats_that_are_no_range_are_taken_as_they_are_where_that_is_said(tmp_path):
    values = RNG.standard_normal((6, 1, 5, 7)).astype(np.float32)
    images = load_images(stored(tmp_path, images=values), limits="none")
    assert np.array_equal(images.floats.numpy(), values)
    assert "as the network takes them" in images.about


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (BYTES.astype(np.int64), BYTES),
        (BYTES.astype(np.uint16) * 257, BYTES),
        (BYTES > 127, (BYTES > 127) * 255),
        (BYTES.astype(np.uint16), BYTES),
    ],
)
def test_whole_numbers_of_other_types(tmp_path, values, expected):
    images = load_images(stored(tmp_path, images=values))
    assert images.pixels.dtype == torch.uint8
    assert np.array_equal(images.pixels[:, 0].numpy(), expected)
    assert "from " in images.about


@pytest.mark.parametrize(
    "values",
    [
        BYTES.astype(np.int16) - 128,
        BYTES.astype(np.int32) * 100,
        BYTES.astype(np.uint16) * 16,
        BYTES // 128,
        (BYTES // 16).astype(np.int64),
    ],
)
def test_whole_numbers_on_an_unknown_scale_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match="--range"):
        load_images(stored(tmp_path, images=values))
    limits = (float(values.min()), float(values.max()))
    images = load_images(stored(tmp_path, images=values), limits=limits)
    assert (int(images.pixels.min()), int(images.pixels.max())) == (0, 255)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"first": BYTES, "second": BYTES}, "holds first, second: give the images"),
        ({}, "holds nothing"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "holds statistics"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "needs numbers"),
        ({"images": np.zeros((2, 0, 4), np.uint8)}, "needs numbers"),
        ({"images": np.zeros(4, np.uint8)}, "needs numbers"),
        ({"images": np.array(["a", "b"])}, "needs numbers"),
        ({"images": UNIT + 1j}, "needs numbers"),
        ({"images": UNIT * np.nan}, "NaN or infinity"),
        ({"images": np.zeros((2, 784), np.uint8)}, "not rows of pixels"),
        ({"images": np.zeros((2, 3, 9, 3), np.uint8)}, "channels may come first or last"),
        ({"images": np.arange(2 * 4 * 81, dtype=np.uint32).astype(np.uint8).reshape(2, 9, 9, 4)}, "not opaque"),
        ({"images": np.zeros((9, 11, 3), np.uint8)}, "no pictures"),
        ({"images": np.zeros((1, 6, 9, 11, 3), np.uint8)}, "no pictures"),
        ({"images": np.zeros((6, 13, 9, 11), np.uint8)}, "no pictures"),
        ({"X": np.zeros((32, 32, 3, 50), np.uint8)}, "seem to come last"),
        ({"images": np.zeros((32, 32, 3, 50), np.float32)}, "seem to come last"),
        (
            {"images": np.arange(2 * 81 * 2, dtype=np.uint16).astype(np.uint8).reshape(2, 9, 9, 2)},
            "2 channels, one of them not",
        ),
        ({"latents": BYTES}, "needs finite float latents"),
        ({"latents": np.full_like(UNIT, np.inf)}, "needs finite float latents"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_one_line(tmp_path, arrays, message):
    path = stored(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_images(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("floats", [False, True])
def test_an_opaque_alpha_channel_is_left_out(tmp_path, channels, floats):
    shown = BYTES[..., None].repeat(channels, 3)
    values = np.concatenate([shown, np.full_like(shown[..., :1], 255)], 3)
    values = (values / 255).astype(np.float32) if floats else values
    images = load_images(stored(tmp_path, images=values), limits=(0.0, 1.0) if floats else None)
    assert np.array_equal(images.pictures[:, 0].numpy(), BYTES)
    assert images.pixels.shape == (6, channels, 5, 7)
    values[0, 0, 0, -1] = 0
    with pytest.raises(ValueError, match="not opaque"):
        load_images(stored(tmp_path, images=values), limits=(0.0, 1.0) if floats else None)


def test_a_range_of_other_numbers_is_refused_and_a_part_of_it_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"from 0 to 0\.9\S* only, in --range 0,255"):
        load_images(stored(tmp_path, images=UNIT), limits=(0.0, 255.0))
    assert "values from 0 to 0.9" in load_images(stored(tmp_path, images=UNIT), limits=(-1.0, 1.0)).about
    assert "values" not in load_images(stored(tmp_path, images=UNIT), limits=(0.0, 1.0)).about


def test_of_several_arrays_the_one_that_was_taken_is_said(tmp_path):
    images = load_images(stored(tmp_path, samples=BYTES[::-1], images=BYTES, labels=np.arange(6)))
    assert np.array_equal(images.pixels[:, 0].numpy(), BYTES)
    assert "from 'images' (samples left out)" in images.about


@pytest.mark.parametrize(
    "names",
    [
        ("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_x", "{}_y"), ("{}X", "{}Y"), ("{}_data", "{}_labels"),
        ("{}_data", "{}_targets"),
    ],
)  # fmt: skip
def test_of_a_set_in_parts_the_held_out_one_is_taken_under_every_usual_name(tmp_path, names):
    first, second = names
    train = {first.format("train"): BYTES, second.format("train"): np.arange(6)}
    test = {first.format("test"): BYTES[::-1], second.format("test"): np.arange(6)[::-1]}
    for part, taken in (("held-out", BYTES[::-1]), ("train", BYTES)):
        images = load_images(stored(tmp_path, **train, **test), part=part)
        assert np.array_equal(images.pixels[:, 0].numpy(), taken)
        assert images.labels.tolist() == [int(np.flatnonzero((BYTES == row).all((1, 2)))[0]) for row in taken]
    images = load_images(stored(tmp_path, **train))
    assert "its train part, for want of a held-out one" in images.about


@pytest.mark.parametrize(("images", "labels"), [("X", "Y"), ("data", "target"), ("imgs", "label"), ("image", "Labels")])
def test_names_count_by_their_letters(tmp_path, images, labels):
    found = load_images(stored(tmp_path, **{images: BYTES, labels: np.arange(6), "more": BYTES}))
    assert np.array_equal(found.pixels[:, 0].numpy(), BYTES)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_numbers_of_another_byte_order_are_these_numbers(tmp_path, suffix):
    deep = BYTES.astype(np.uint16) * 257
    for values, limits in ((deep.astype(">u2"), None), (UNIT.astype(">f4"), (0.0, 1.0)), (BYTES.astype(">i8"), None)):
        np.savez(tmp_path / "a.npz", images=values)
        np.save(tmp_path / "a.npy", values)
        images = load_images(tmp_path / f"a.{suffix}", limits=limits)
        assert np.array_equal(images.pictures[:, 0].numpy(), BYTES)


STATES = {
    "vectors": (6, 12),
    "signals": (6, 1, 100),
    "two-channel signals": (6, 2, 100),
    "two channels": (6, 2, 8, 8),
    "latents under another name": (6, 4, 8, 8),
    "many channels": (6, 13, 8, 8),
    "video": (6, 3, 4, 8, 8),
}


@pytest.mark.parametrize("kind", list(STATES))
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_what_are_no_pictures_are_states_as_they_are(tmp_path, kind, suffix):
    values = RNG.standard_normal(STATES[kind])
    path = tmp_path / f"set.{suffix}"
    np.save(path, values) if suffix == "npy" else np.savez(path, images=values)
    images = load_images(path)
    np.testing.assert_allclose(images.floats.numpy(), values, rtol=1e-6)
    assert "6 states" in images.about
    with pytest.raises(ValueError, match="no pictures"):
        images.pictures  # noqa: B018


def test_channels_last_states_are_moved_and_that_is_said(tmp_path):
    values = RNG.standard_normal((6, 8, 9, 2)).astype(np.float32)
    images = load_images(stored(tmp_path, images=values))
    assert np.array_equal(images.floats.numpy(), values.transpose(0, 3, 1, 2))
    assert "channels last" in images.about


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_sets_in_parts_give_the_wanted_one(tmp_path, names):
    parts = {}
    for split, shade in (("train", 50), ("test", 200)):
        parts[names[0].format(split)] = np.full((3, 8, 8), shade, np.uint8)
        parts[names[1].format(split)] = np.full((3, 1), shade // 100, np.uint8)
    path = stored(tmp_path, **parts)
    held_out, train = load_images(path), load_images(path, part="train")
    assert (held_out.pixels.unique().tolist(), held_out.labels.unique().tolist()) == ([200], [2])
    assert (train.pixels.unique().tolist(), train.labels.unique().tolist()) == ([50], [0])
    assert "its test part" in held_out.about


def test_copies_are_counted(tmp_path):
    assert "2 copies of others" in load_images(stored(tmp_path, images=BYTES[[0, 1, 2, 1, 1]])).about
    assert "all alike" in load_images(stored(tmp_path, images=BYTES[[0, 0, 0]])).about
    assert "cop" not in load_images(stored(tmp_path, images=BYTES)).about
