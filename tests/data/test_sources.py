"""Reading image sets: every format gives the same pixels back, and what is damaged is named in one line."""

import gzip
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from noiseshift.data import load_idx, load_images, reference, to_float, to_uint8


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    raw = header + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_every_byte_survives_the_trip_to_floats():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_by_their_header(tmp_path, pixels, ending):
    labels = np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{ending}", pixels)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{ending}", labels)
    images = load_idx(tmp_path, "t10k")
    assert images.pixels.shape == (6, 1, 5, 7)
    assert np.array_equal(images.pixels[:, 0].numpy(), pixels)
    assert images.labels.tolist() == labels.tolist()
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize("around", ["", "set"])
def test_idx_files_may_lie_in_folders_of_their_own_names(tmp_path, pixels, around):
    for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(6, dtype=np.uint8))):
        folder = tmp_path / around / f"t10k-{kind}-ubyte"
        folder.mkdir(parents=True)
        write_idx(folder / folder.name, array)
    if around:  # the same files also beside the folders, as one archive has them
        write_idx(tmp_path / around / "t10k-images.idx3-ubyte", pixels)
        write_idx(tmp_path / around / "t10k-labels.idx1-ubyte", np.arange(6, dtype=np.uint8))
    images = load_images(tmp_path / around)
    assert np.array_equal(images.pixels[:, 0].numpy(), pixels)
    assert images.labels.tolist() == list(range(6))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_unpacked_by_their_bytes_not_by_their_names(tmp_path, pixels, packed):
    for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(6, dtype=np.uint8))):
        write_idx(tmp_path / (f"made.{kind}.gz" if packed else f"made.{kind}"), array)
        (tmp_path / f"t10k-{kind}-ubyte{'' if packed else '.gz'}").write_bytes(
            next(tmp_path.glob(f"made.{kind}*")).read_bytes()
        )
    assert np.array_equal(load_images(tmp_path).pixels[:, 0].numpy(), pixels)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"PK" + raw[2:], lambda raw: raw[:3]])
def test_a_damaged_idx_file_is_named(tmp_path, pixels, damage):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, pixels)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte is damaged or no whole idx file of bytes: get it again"
    ):
        load_images(tmp_path)


def test_idx_files_that_disagree_are_refused(tmp_path, pixels):
    write_idx(tmp_path / "train-images-idx3-ubyte", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="6 train images but 4 labels"):
        load_images(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\3\4 cut short"])
def test_a_file_that_is_no_npz_is_one_line(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"is empty: write it|no image set \(\.npz or \.npy of plain arrays\)"
    ) as caught:
        load_images(tmp_path / "set.npz")
    assert "\n" not in str(caught.value)


OTHER_FILES = {
    "train.parquet": (b"PAR1", "is a Parquet file: write its pictures"),
    "data_batch_1": (pickle.dumps({b"data": [1]}), "is a pickle, which can run code and is not opened"),
    "test.pkl": (pickle.dumps([1], protocol=0), "is a pickle, which can run code and is not opened"),
    "training.pt": (b"PK\3\4", "is a PyTorch file, which can run code and is not opened"),
    "shard-000000.tar": (b"\0" * 1024, "is a tar archive: unpack it"),
    "set.tar.gz": (gzip.compress(b"x"), "is a gzip archive: unpack it"),
    "set.npy.gz": (gzip.compress(b"x"), "is a gzip archive: unpack it"),
    "set.h5": (b"\x89HDF\r\n", "is an HDF5 file: write its pictures"),
    "test_32x32.mat": (b"MATLAB 5.0 MAT-file", "is a MATLAB file: write its pictures"),
    "mnist_test.csv": (b"label,pixel0\n", "is a table: write its pictures"),
    "data.mdb": (b"\0" * 4096, "is an LMDB database: write its pictures"),
    "one.png": (b"\x89PNG", "is one picture: give its folder"),
    "test_batch.bin": (bytes(3073), "is raw bytes whose meaning is not known: write its pictures"),
    "shard": (b"a.png".ljust(257, b"\0") + b"ustar\0" + bytes(600), "is a tar archive: unpack it"),
    "t10k-labels-idx1-ubyte.gz": (gzip.compress(b"x"), "is labels without their pictures: give the folder"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_kinds_of_files_are_named_with_a_remedy(tmp_path, name):
    content, said = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {said}") as caught:
        load_images(tmp_path / name)
    assert "\n" not in str(caught.value)
    if name != "one.png":
        with pytest.raises(ValueError, match=r"no pictures .*: it holds 1 .*; .*(write its pictures|unpack it)"):
            load_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["1.npy", "2.npy"], "numpy.stack"),
        (["train.zip"], "give train.zip itself"),
        (["readme.md", "train.npz"], "give train.npz itself"),
        (["t10k-labels-idx1-ubyte"], "is of an idx set: unpack it"),
        (["notes", "list.txt"], "write its pictures with numpy.savez"),
        ([], "it is empty, give another folder"),
    ],
)
def test_a_folder_without_pictures_says_what_to_do_with_what_it_holds(tmp_path, names, remedy):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"no pictures .*{remedy}") as caught:
        load_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_zip_of_pictures_is_one_whatever_its_name_ends_in(tmp_path, pixels):
    with zipfile.ZipFile(tmp_path / "set.download", "w") as archive:
        for row, values in enumerate(pixels):
            with archive.open(f"{row}.png", "w") as file:
                Image.fromarray(values).save(file, "PNG")
    assert np.array_equal(load_images(tmp_path / "set.download").pixels[:, 0].numpy(), pixels)
    np.savez(tmp_path / "arrays.npz", images=pixels)
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.download")
    assert np.array_equal(load_images(tmp_path / "arrays.download").pixels[:, 0].numpy(), pixels)


def test_a_folder_of_pictures_takes_its_classes_from_its_folders(tmp_path, pixels):
    for row, (folder, name) in enumerate([("ankle", "b.png"), ("ankle", "a.png"), ("bag", "a.png")]):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels[row]).save(tmp_path / folder / name)
    images = load_images(tmp_path)
    assert images.labels.tolist() == [0, 0, 1]
    assert np.array_equal(images.pixels[:, 0].numpy(), pixels[[1, 0, 2]])


def test_grey_pictures_among_coloured_ones_become_coloured(tmp_path, pixels):
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    Image.fromarray(np.stack([pixels[1], pixels[2], pixels[3]], -1)).save(tmp_path / "b.png")
    images = load_images(tmp_path)
    assert images.labels is None
    assert np.array_equal(images.pixels[0].numpy(), pixels[[0, 0, 0]])
    assert np.array_equal(images.pixels[1].numpy(), pixels[1:4])


def test_pictures_of_two_sizes_are_refused(tmp_path, pixels):
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    Image.fromarray(pixels[1].T.copy()).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has size \(7, 5\).*resize"):
        load_images(tmp_path)


def test_folders_without_pictures_and_missing_paths(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="give a folder of pictures"):
        load_images(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png is not a readable picture"):
        load_images(tmp_path)


def test_idx_files_of_the_held_out_part_come_first(tmp_path, pixels):
    for split, shade in (("train", 10), ("t10k", 200)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", pixels * 0 + np.uint8(shade))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    assert load_images(tmp_path).pixels.unique().tolist() == [200]
    assert "the t10k files" in load_images(tmp_path).about
    assert load_images(tmp_path, part="train").pixels.unique().tolist() == [10]
    assert load_images(tmp_path / "train-images-idx3-ubyte").pixels.unique().tolist() == [10]
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    assert "the train files, for want of held-out ones" in load_images(tmp_path).about
    assert load_images(tmp_path).pixels.unique().tolist() == [10]


def test_idx_files_lie_where_torchvision_puts_them(tmp_path, pixels):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write_idx(raw / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(raw / "t10k-images-idx3-ubyte", pixels)
    write_idx(raw / "t10k-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    assert load_images(tmp_path).labels.tolist() == list(range(6))


def test_two_held_out_splits_are_refused(tmp_path, pixels):
    for split in ("emnist-letters-test", "emnist-digits-test"):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", pixels)
    with pytest.raises(ValueError, match="emnist-digits-test, emnist-letters-test: give the images file of one"):
        load_images(tmp_path)


def test_the_reference_set_is_balanced_in_every_stretch():
    images = reference()
    assert images.pixels.shape == (2000, 1, 28, 28)
    assert images.labels.reshape(-1, 10).tolist() == [list(range(10))] * 200
    assert images.floats.min() == -1
    assert len(images.pixels.flatten(1).unique(dim=0)) == 2000
