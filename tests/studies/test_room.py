"""A run that cannot end is refused before it begins, in one line."""

from dataclasses import replace

import pytest
import torch

import noiseshift as ns
from noiseshift.evaluation import ClassifierFeatures, Features, Moments
from noiseshift.studies import room
from noiseshift.studies.shards import Shards

PROTOCOL = ns.Protocol("euler:2", samples=8, estimators={"residual": None})


def one_line(error):
    return "\n" not in str(error.value)


def test_a_run_that_fits_passes(tmp_path):
    room.require_room(ns.load(), PROTOCOL, Shards(tmp_path / "run", {}), final_samples=8)


def test_memory_and_disk_are_asked_first(tmp_path):
    large = replace(ns.load(), shape=(3, 10**6, 10**6))
    with pytest.raises(ValueError, match=r"batch of 8 samples takes at least .* --batch") as error:
        room.require_room(large, PROTOCOL, None, final_samples=0)
    assert one_line(error)
    many = replace(PROTOCOL, samples=10**14, points=1)
    with pytest.raises(ValueError, match=r"samples takes at least .* fewer --samples"):
        room.require_room(ns.load(), many, None, final_samples=0)
    with pytest.raises(ValueError, match="free: free some space, take fewer --samples") as error:
        room._require_disk(tmp_path / "not" / "there", 1 << 60)
    assert one_line(error)


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (5000, "5,000 bytes"), (3 << 20, "3.0 MB"), (5 << 30, "5.0 GB")]
)
def test_a_size_is_said_in_a_unit_that_shows_it(size, words):
    assert room._said(size) == words


def test_a_reference_that_cannot_be_compared_with_is_refused():
    checkpoint, extractor = ns.load(), ClassifierFeatures()
    other = Moments(torch.zeros(5).numpy(), torch.eye(5).numpy(), 100)
    with pytest.raises(ValueError, match="gives 128 features, the reference has 5: give one of the same extractor"):
        room.require_reference(checkpoint, extractor, other, 8, small=True)
    alike = Features("fashion", torch.zeros(4, 128).numpy())
    room.require_reference(checkpoint, extractor, alike, 8, small=True)
    with pytest.raises(ValueError, match="8 samples under 128 features"):
        room.require_reference(checkpoint, extractor, alike, 8, small=False)


def test_a_protocol_has_bounds():
    for wrong in ({"batch": 0}, {"points": 0}, {"seed": -1}, {"seed": 1 << 64}, {"solver": "euler:1000000000"}):
        with pytest.raises(ValueError, match="give"):
            replace(PROTOCOL, **wrong)
