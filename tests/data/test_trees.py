"""Folders and zips: which files are pictures, which folders are classes, and in which order."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from noiseshift.data import load_images


def picture(path, shade=0):
    """A grey picture whose every value is `shade`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)


@pytest.fixture(params=["folder", "zip", "zip in a folder"])
def read(request, tmp_path):
    """Reads the set under tmp_path/set, as it is, or zipped, with or without a folder around it."""

    def of(**options):
        if request.param == "folder":
            return load_images(tmp_path / "set", **options)
        around = {"root_dir": tmp_path, "base_dir": "set"} if request.param == "zip in a folder" else {}
        shutil.make_archive(str(tmp_path / "packed"), "zip", **(around or {"root_dir": tmp_path / "set"}))
        return load_images(tmp_path / "packed.zip", **options)

    return of


def shades(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_numbered_classes_come_in_natural_order(tmp_path, read):
    for number in (10, 2, 0, 1, *range(3, 10)):
        picture(tmp_path / "set" / str(number) / "a.png", number)
    images = read()
    assert images.labels.tolist() == shades(images) == list(range(11))
    assert images.names == tuple(map(str, range(11)))
    assert "11 classes in the order 0 … 10" in images.about
    assert "by number" in images.about


def test_classes_called_by_words_come_as_training_code_sorts_them(tmp_path, read):
    names = ["Zebra", "ant", "Bee", "école", "eel"]
    for shade, name in enumerate(sorted(names)):
        picture(tmp_path / "set" / name / "a.png", shade)
    images = read()
    assert images.names == tuple(sorted(names))
    assert images.labels.tolist() == shades(images)
    assert "by number" not in images.about


def test_pictures_of_a_class_come_in_natural_order(tmp_path, read):
    for number in (10, 9, 100):
        picture(tmp_path / "set" / f"img{number}.png", number)
    assert shades(read()) == [9, 10, 100]


JUNK = [
    ".ipynb_checkpoints/a.png",
    "__MACOSX/a/._x.png",
    ".git/a.png",
    "a/.DS_Store",
    "b/Thumbs.db",
    "a/._a.png",
    ".a.png",
]
JUNK += ["a/.ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png", "desktop.ini"]


def test_hidden_and_left_behind_files_are_no_pictures(tmp_path, read):
    for label, name in enumerate("abc"):
        picture(tmp_path / "set" / name / "a.png", label)
    for place in JUNK:
        path = tmp_path / "set" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, 99) if path.suffix == ".png" else path.write_bytes(b"?")
    images = read()
    assert images.labels.tolist() == shades(images) == [0, 1, 2]
    assert "left out" not in images.about


def test_a_hidden_root_is_no_hidden_folder(tmp_path):
    picture(tmp_path / ".cache" / "set" / "a.png")
    assert len(load_images(tmp_path / ".cache" / "set")) == 1


def test_a_flat_folder_has_no_classes(tmp_path, read):
    picture(tmp_path / "set" / "x.png")
    (tmp_path / "set" / "notes").mkdir()
    (tmp_path / "set" / "README.md").write_text("pictures")
    images = read()
    assert (len(images), images.labels, images.names) == (1, None, ())
    assert "1 other file left out" in images.about


def test_a_lone_folder_is_passed_through(tmp_path, read):
    picture(tmp_path / "set" / "inner" / "test" / "cat" / "a.png", 3)
    picture(tmp_path / "set" / "inner" / "test" / "dog" / "a.png", 4)
    images = read()
    assert (images.names, shades(images)) == (("cat", "dog"), [3, 4])


def test_a_class_folder_without_a_picture_is_refused(tmp_path, read):
    picture(tmp_path / "set" / "a" / "a.png")
    picture(tmp_path / "set" / "c" / "a.png")
    (tmp_path / "set" / "b").mkdir()
    with pytest.raises(ValueError, match=r"class folders without a picture \(b\)"):
        read()


def test_pictures_beside_class_folders_are_refused(tmp_path, read):
    picture(tmp_path / "set" / "a" / "a.png")
    picture(tmp_path / "set" / "x.png")
    with pytest.raises(ValueError, match="both beside and inside its folders"):
        read()


@pytest.mark.parametrize("held_out", ["val", "test", "Validation", "held-out"])
def test_of_a_training_and_a_held_out_part_the_wanted_one_is_taken(tmp_path, read, held_out):
    for label, name in enumerate("ab"):
        picture(tmp_path / "set" / "train" / name / "a.png", label)
        picture(tmp_path / "set" / held_out / name / "a.png", label + 10)
    assert shades(read()) == [10, 11]
    assert read().labels.tolist() == [0, 1]
    assert f"its part {held_out}" in read().about
    assert shades(read(part="train")) == [0, 1]


def test_a_set_of_one_part_says_where_it_is_not_the_wanted_one(tmp_path, read):
    picture(tmp_path / "set" / "train" / "a" / "a.png", 1)
    picture(tmp_path / "set" / "train" / "b" / "a.png", 2)
    assert "its part train, for want of a held-out one" in read().about
    assert "for want" not in read(part="train").about


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("Train-Set", "Test-Set"),
        ("train_data", "validation"),
        ("seg_train", "seg_test"),
        ("cifar10-train", "cifar10-val"),
        ("My Train Set", "My Test Set"),
    ],
)
def test_parts_are_known_by_the_word_in_their_names(tmp_path, read, train, held_out):
    picture(tmp_path / "set" / train / "a.png", 1)
    picture(tmp_path / "set" / held_out / "a.png", 2)
    assert (shades(read()), read().labels) == ([2], None)


@pytest.mark.parametrize(
    "names", [("trainA", "trainB", "testA", "testB"), ("images", "masks"), ("JPEGImages", "Annotations")]
)
def test_folders_that_are_no_classes_are_refused(tmp_path, read, names):
    for name in names:
        picture(tmp_path / "set" / name / "a.png")
    with pytest.raises(ValueError, match=r"comes in parts|give the folder of the pictures"):
        read()


@pytest.mark.parametrize("names", [("express train", "test drive"), ("night_train", "night_mare")])
def test_classes_that_have_such_a_word_in_their_names_are_classes(tmp_path, read, names):
    for name in names:
        picture(tmp_path / "set" / name / "a.png")
    assert read().names == tuple(sorted(names))


def test_of_two_held_out_parts_none_is_guessed(tmp_path, read):
    for part in ("train", "val", "test"):
        picture(tmp_path / "set" / part / "a" / "a.png")
    with pytest.raises(ValueError, match=r"comes in parts \(test, train, val\): give one of them"):
        read()
    assert len(read(part="train")) == 1


@pytest.mark.parametrize("prefix", ["", "seg_"])
def test_parts_inside_the_classes_are_refused(tmp_path, read, prefix):
    for name in "ab":
        for part in (f"{prefix}train", f"{prefix}test"):
            picture(tmp_path / "set" / name / part / "a.png")
    with pytest.raises(ValueError, match="come in parts"):
        read()


def test_a_class_may_be_called_test(tmp_path, read):
    picture(tmp_path / "set" / "quiz" / "a.png")
    picture(tmp_path / "set" / "test" / "a.png")
    assert read().names == ("quiz", "test")


def test_deeper_folders_belong_to_their_class(tmp_path, read):
    picture(tmp_path / "set" / "a" / "1.png")
    picture(tmp_path / "set" / "a" / "more" / "2.png")
    picture(tmp_path / "set" / "b" / "1.png")
    images = read()
    assert images.labels.tolist() == [0, 0, 1]
    assert "deeper folders" in images.about


def test_edms_list_gives_the_labels(tmp_path, read):
    for number in range(4):
        picture(tmp_path / "set" / f"0000{number // 2}" / f"img{number}.png", number)
    labels = [[f"0000{number // 2}/img{number}.png", 7 - number] for number in range(4)]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": labels}))
    images = load_images(tmp_path / "set")
    assert images.labels.tolist() == [7, 6, 5, 4]
    (tmp_path / "set" / "dataset.json").write_text('{"labels": null}')
    assert load_images(tmp_path / "set").labels is None
    for wrong in ("{", "[]", '{"labels": [["00000/img0.png", 1]]}', '{"labels": [["00000/img0.png", -1]]}'):
        (tmp_path / "set" / "dataset.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"dataset\.json"):
            load_images(tmp_path / "set")


def test_links_are_followed_once(tmp_path):
    picture(tmp_path / "store" / "n2" / "a.png", 5)
    picture(tmp_path / "set" / "n1" / "a.png", 4)
    os.symlink(tmp_path / "store" / "n2", tmp_path / "set" / "n2")
    os.symlink(tmp_path / "set", tmp_path / "store" / "n2" / "back")
    os.symlink(tmp_path / "nowhere", tmp_path / "set" / "n1" / "broken.png")
    assert shades(load_images(tmp_path / "set")) == [4, 5]


def test_a_pipe_and_a_folder_called_like_a_picture_are_none(tmp_path):
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    assert len(load_images(tmp_path)) == 1


def test_damaged_zips_are_one_line(tmp_path):
    picture(tmp_path / "set" / "a.png", 7)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set")
    with open(packed, "rb") as file:
        whole = file.read()
    rng, said = np.random.default_rng(0), []
    for case in range(40):
        raw = bytearray(whole[: rng.integers(1, len(whole))] if case % 4 == 0 else whole)
        for place in rng.integers(0, len(raw), 3):
            raw[place] = rng.integers(256)
        (tmp_path / "bad.zip").write_bytes(bytes(raw))
        try:
            load_images(tmp_path / "bad.zip")
        except ValueError as error:
            said.append(str(error))
    assert said
    assert not [line for line in said if "\n" in line]


def test_a_name_that_climbs_out_of_a_zip_is_no_picture_of_it(tmp_path):
    picture(tmp_path / "a.png", 7)
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "set/inner/../../../b.png")
        archive.writestr("set/c.png", (tmp_path / "a.png").read_bytes())
    before = sorted(tmp_path.iterdir())
    assert len(load_images(tmp_path / "up.zip")) == 1
    assert sorted(tmp_path.iterdir()) == before
