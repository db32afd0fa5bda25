"""Classes: whole numbers from 0 that the checkpoint knows, or a refusal; never a number that was bent into one."""

import numpy as np
import pytest
import torch

from noiseshift.data import Images, for_checkpoint, load_images

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)


def read(tmp_path, labels):
    np.savez(tmp_path / "set.npz", images=PICTURES, labels=labels)
    return load_images(tmp_path / "set.npz")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2, 1]),
        np.array([0, 1, 2, 1], np.uint8),
        np.array([0.0, 1.0, 2.0, 1.0]),
        np.array([[0], [1], [2], [1]]),
        np.eye(3)[[0, 1, 2, 1]],
        np.eye(3, dtype=bool)[[0, 1, 2, 1]],
        np.array(["bag", "boot2", "boot10", "boot2"]),
        np.array([b"0", b"1", b"2", b"1"]),
        np.array(["0.0", "1.0", "2.0", "1.0"]),
    ],
)
def test_labels_in_every_form(tmp_path, labels):
    images = read(tmp_path, labels)
    assert images.labels.tolist() == [0, 1, 2, 1]
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2, -1]), "the label -1"),
        (np.array([0, 1, 2, np.nan]), "the label nan"),
        (np.array([0, 1, 2, np.inf]), "the label inf"),
        (np.array([0, 1, 2, 0.5]), r"the label 0\.5"),
        (np.array([0, 1, 2, 2**40]), "the label 1099511627776"),
        (np.array([0, 1, 2]), "4 images but 3 labels"),
        (np.array([0, 1, 2, 3, 4]), "4 images but 5 labels"),
        (np.ones((4, 3)), "not one-hot"),
        (np.full((4, 3), 1 / 3), "not one-hot"),
        (np.array([0, 1, 2, 1j]), "labels of type"),
        (np.array(["0", "1", "-1", "2"]), "the label -1"),
        (np.array(["0", "1", "nan", "2"]), "the label nan"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, labels)
    assert "\n" not in str(caught.value)


def test_labels_written_as_words_keep_their_numbers_and_bytes_their_words(tmp_path):
    assert read(tmp_path, np.array(["10", "2", "1", "2"])).labels.tolist() == [10, 2, 1, 2]
    assert read(tmp_path, np.array([b"cat", b"ant", b"dog", b"ant"])).names == ("ant", "cat", "dog")


def numbered(*labels):
    return Images(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), torch.tensor(labels))


def test_labels_must_be_classes_of_the_checkpoint():
    assert for_checkpoint(numbered(0, 9), 10).labels.tolist() == [0, 9]
    with pytest.raises(ValueError, match="from 0 to 10, the checkpoint classes or prompts from 0 to 9"):
        for_checkpoint(numbered(0, 10), 10)
    with pytest.raises(ValueError, match="counted from 1"):
        for_checkpoint(numbered(*range(1, 11)), 10)
    with pytest.raises(ValueError, match="from -1"):
        for_checkpoint(numbered(-1, 3), 10)
    with pytest.raises(ValueError, match="conditional: give --data with labels"):
        for_checkpoint(Images(torch.zeros(2, 1, 4, 4)), 10)
    assert for_checkpoint(Images(torch.zeros(2, 1, 4, 4)), 1).labels.tolist() == [0, 0]
    assert for_checkpoint(numbered(5, 70), 0).labels.tolist() == [5, 70]


def folders(*names):
    return Images(torch.zeros(len(names), 1, 4, 4), torch.arange(len(names)), names)


@pytest.mark.parametrize(
    ("names", "classes", "card", "expected"),
    [
        (("Bag", "boot"), 3, ("boot", "coat", "bag"), [2, 0]),
        (("0", "1", "2"), 3, ("boot", "coat", "bag"), [0, 1, 2]),
        (("0", "1"), 3, ("boot", "coat", "bag"), [0, 1]),
        (("bag", "boot", "coat"), 3, (), [0, 1, 2]),
        (("1", "2", "3"), 3, (), [0, 1, 2]),
        (("0", "1"), 10, (), [0, 1]),
        (("n01440764", "n01443537"), 2, ("tench", "goldfish"), [0, 1]),
        (("cafe\u0301", "bar"), 2, ("bar", "caf\u00e9"), [1, 0]),  # an accent of its own, as some file systems write it
        (("a", "A"), 2, ("A", "a"), [1, 0]),
    ],
)
def test_class_folders_are_matched_with_the_checkpoint(names, classes, card, expected):
    assert for_checkpoint(folders(*names), classes, card).labels.tolist() == expected


@pytest.mark.parametrize(
    ("names", "classes", "card", "message"),
    [
        (("bag", "shoe"), 2, ("bag", "boot"), "class folder shoe is none of the card's classes"),
        (("1", "2", "3"), 3, ("boot", "coat", "bag"), "class folder 1 is none"),
        (("bag", "boot"), 10, (), "2 class folders .* which is which is not known"),
        (("207", "360"), 1000, (), "is not known"),
        (("1", "2"), 10, (), "is not known"),
        (("a", "b", "c"), 2, (), "3 class folders"),
        (("Cat", "cat"), 2, ("cat", "dog"), "differ by capitals only"),
        (("CAT", "dog"), 3, ("cat", "Cat", "dog"), "differ by capitals only"),
    ],
)
def test_class_folders_that_could_be_any_classes_are_refused(names, classes, card, message):
    with pytest.raises(ValueError, match=message):
        for_checkpoint(folders(*names), classes, card)


def test_folders_called_by_signed_numbers_are_no_classes():
    with pytest.raises(ValueError, match="the class folder -1 is no class"):
        for_checkpoint(folders("-1", "0", "1"), 3)
