"""The main job's own decisions: who calibrates, who tests, and which steps are read."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.data import Images
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import available, read_times, split
from noiseshift.studies.sampling import labels


def test_both_halves_of_the_held_out_data_have_the_same_classes():
    # The bundled images come class by class in turn: every other one would be every other class.
    calibrating, testing = split(ns.data.reference(), ns.load())
    assert torch.equal(calibrating.labels.bincount(), testing.labels.bincount())
    assert torch.equal(calibrating.labels[:20] % 10, torch.arange(20) % 10)
    shared = set(map(bytes, calibrating.pixels.numpy())) & set(map(bytes, testing.pixels.numpy()))
    assert not shared


@pytest.mark.parametrize("n", [8, 9, 101])
def test_odd_and_unlabelled_sets_are_split_too(n):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    halves = split(Images(pixels, torch.randint(0, 10, (n,), generator=generator)), ns.load())
    assert sum(map(len, halves)) == n


def test_the_steps_read_are_the_samplers_own_times():
    model = ns.load("fashion-ddpm").model
    for name in ("ddim:50", "diffusers/DDIMScheduler:50", "diffusers/HeunDiscreteScheduler:20"):
        protocol = Protocol(ns.solver(name), points=6)
        times = read_times(model, protocol)
        assert len(times) == 6
        assert ((times > 0) & (times < 1)).all()
        assert (times.diff() < 0).all()


def test_classes_are_balanced_and_belong_to_the_index():
    assert labels(ns.load(), range(8, 23)).tolist() == [i % 10 for i in range(8, 23)]


def test_unknown_estimators_are_named():
    with pytest.raises(ValueError, match="choose from network"):
        Protocol(ns.solver("euler:4"), estimators={"guess": None})


def test_a_run_through_a_diffusers_scheduler_with_controls():
    protocol = Protocol(
        ns.solver("diffusers/DDIMScheduler:6"),
        samples=8,
        estimators={"residual": 2, "network": None},
        points=2,
        calibration_rows=8,
        controls=True,
    )
    run = ns.run(ns.load("fashion-ddpm"), protocol, ns.data.reference()[:100])
    assert [check.name for check in run.controls.checks] == ["null", "level", "solver's share", "content"]
    assert np.allclose(run.controls.solver["network"].times, run.reports["network"].times)
    # An estimator that reads the first few samples has its controls read on as many.
    assert {name: len(report.sampled) for name, report in run.controls.solver.items()} == {
        "residual": 2,
        "network": 8,
    }
    assert set(run.controls.null[run.controls.null.estimator == "residual"].n) == {2}
    assert run.pictures.shape == (8, 1, 28, 28)


@pytest.mark.parametrize(("classes", "warned"), [(4, True), (5, False)])
def test_sampled_classes_that_the_real_images_do_not_show_are_said(classes, warned, monkeypatch):
    said = []
    monkeypatch.setattr(logging.getLogger("noiseshift"), "warning", lambda text, *values: said.append(text % values))
    data = ns.data.reference()
    protocol = Protocol(ns.solver("euler:3"), samples=20, estimators={"constant-pixel": None}, points=1)
    ns.run(ns.load(), protocol, data[data.labels < classes][:60])
    assert ["only 4 of the 10 classes" in text for text in said] == [True] * warned


def test_a_checkpoint_is_read_by_what_it_allows():
    checkpoint, data = ns.load(), ns.data.reference()[:100]
    assert list(available(checkpoint, data)) == ["network", "residual", "constant-pixel"]
    bare = dataclasses.replace(checkpoint, estimator=None)
    noisy = ns.data.Images(torch.randint(0, 256, data.pixels.shape).to(torch.uint8), data.labels)
    assert list(available(bare, noisy)) == ["residual"]
    assert list(available(bare, noisy, ("network", "constant-pixel"))) == ["residual"]
