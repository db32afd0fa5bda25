"""Data of another shape than the checkpoint's: the error says what is to be done."""

import pytest

from noiseshift.data import misfit


@pytest.mark.parametrize(
    ("has", "takes", "remedy"),
    [
        ((3, 16, 16), (1, 16, 16), "make its pictures grey"),
        ((1, 16, 16), (3, 16, 16), "make its pictures coloured"),
        ((16, 16, 3), (3, 16, 16), "numpy.transpose"),
        ((64, 1), (1, 64), "numpy.transpose"),
        ((4, 16, 16, 3), (3, 4, 16, 16), "numpy.transpose"),
        ((64,), (1, 64), "numpy.reshape"),
        ((784,), (1, 28, 28), "numpy.reshape"),
        ((1, 32, 32), (1, 28, 28), "of its own size and channels"),
        ((2,), (3,), "of its own size and channels"),
        ((4, 16, 16), (3, 16, 16), "of its own size and channels"),
    ],
)
def test_what_does_not_fit_is_said_with_what_to_do(has, takes, remedy):
    said = misfit(has, takes)
    assert said.startswith(f"the data are {has}, the checkpoint works on {takes}: ")
    assert remedy in said


def test_what_fits_is_no_error():
    assert misfit([1, 28, 28], (1, 28, 28)) is None
