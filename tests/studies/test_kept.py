"""What runs keep for each other: the same bits again, and nothing of another checkpoint, data set or protocol."""

import dataclasses
import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.studies import kept, kept_samples, pace
from noiseshift.studies.checking import checked
from noiseshift.studies.kept_samples import kept_or_sampled
from noiseshift.studies.readers import calibrated
from noiseshift.studies.shards import Shards
from noiseshift.writing.locks import locked

DATA = ns.data.Images(torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 2)
TIMES = torch.tensor([0.7, 0.3], dtype=torch.float64)
PROTOCOL = ns.Protocol("euler:4", samples=4, estimators={"residual": None}, calibration_rows=20)


def checkpoint(weight=0.0, schedule=None):
    torch.manual_seed(0)
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=0, noise_dropout=False))
    network.final_layer.linear.weight.data += 0.1 + weight
    model = NetworkModel(
        network, schedule or ns.Linear(), "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=False
    )
    return Checkpoint("tiny", model, Card("sit"), "0" * 64, (1, 8, 8), 0, None, lambda x: x)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def residual(made, protocol=PROTOCOL, data=DATA, times=TIMES):
    return calibrated(made, protocol, data, times)["residual"]


@pytest.fixture
def rows(monkeypatch):
    """How many rows networks are asked for, call by call; a hook would make another network of them."""
    seen, own = [], NetworkModel._mean

    def counted(self, states, *args):
        seen.append(len(states))
        return own(self, states, *args)

    monkeypatch.setattr(NetworkModel, "_mean", counted)
    return seen


def test_a_calibration_is_made_once_and_comes_back_to_the_bit(folder, rows):
    first = residual(checkpoint())
    rows.clear()
    second = residual(checkpoint())
    assert not rows
    x = torch.randn(5, 1, 8, 8)
    step = ns.Step(0, TIMES[1], x)
    assert torch.equal(first.estimator(x, step=step).prob, second.estimator(x, step=step).prob)
    for name in ("times", "grid", "slopes", "slopes_log_snr"):
        assert np.array_equal(getattr(first.calibration, name), getattr(second.calibration, name))
    for name in ("t", "log_snr", "density"):
        assert np.array_equal(getattr(first.calibration.real, name), getattr(second.calibration.real, name))


@pytest.mark.parametrize(
    "other",
    [
        {"made": checkpoint(weight=1e-6)},
        {"made": checkpoint(schedule=ns.Cosine())},
        {"protocol": dataclasses.replace(PROTOCOL, seed=1)},
        {"protocol": dataclasses.replace(PROTOCOL, calibration_rows=21)},
        {"protocol": dataclasses.replace(PROTOCOL, estimators={"residual": 7})},
        {"data": DATA[torch.arange(40).flip(0)]},
        {"times": TIMES + 1e-12},
        {"made": checkpoint().to("cpu", "bf16")},
    ],
)
def test_whatever_decides_a_number_is_in_the_key(other, folder, rows):
    residual(checkpoint())
    rows.clear()
    residual(**{"made": checkpoint(), **other})
    assert rows
    assert len(list(folder.iterdir())) == 2


def test_other_source_or_libraries_use_nothing_of_it(folder, rows, monkeypatch):
    residual(checkpoint())
    monkeypatch.setattr(kept, "software", lambda: {"source": "other"})
    rows.clear()
    residual(checkpoint())
    assert rows


def test_a_file_that_is_damaged_or_of_another_key_is_not_used(folder):
    right = residual(checkpoint())
    place = next(folder.iterdir())
    residual(checkpoint(), dataclasses.replace(PROTOCOL, seed=1))
    other = next(path for path in folder.iterdir() if path != place)
    for spoil in (lambda: shutil.copy(other, place), lambda: place.write_bytes(place.read_bytes()[:-200])):
        spoil()
        assert np.array_equal(residual(checkpoint()).calibration.real.t, right.calibration.real.t)


def test_checks_come_back_as_they_were(folder, rows):
    first = checked(checkpoint(), DATA, samples=16)
    rows.clear()
    assert checked(checkpoint(), DATA, samples=16).as_dict() == first.as_dict()
    assert not rows


def test_nothing_is_kept_where_that_is_not_wanted_or_cannot_be(folder, monkeypatch):
    with kept.turned_off():
        residual(checkpoint())
    custom = dataclasses.replace(checkpoint(), model=ns.wrap(lambda x, t, cond: x, ns.Linear()))
    residual(custom)
    assert not folder.exists()
    folder.write_text("no folder")
    residual(checkpoint())
    assert folder.read_text() == "no folder"
    monkeypatch.setenv("NOISESHIFT_CACHE", "~nobody-of-this-name/x")  # no home
    assert kept.folder() is None
    residual(checkpoint())


def test_the_folder_does_not_grow_without_end(folder, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    for seed in range(4):
        kept.save("x", {"seed": seed}, {"a": np.zeros(1)})
    assert len(list(folder.iterdir())) == 2
    assert kept.load("x", {"seed": 3}) is not None


def test_no_cache_is_an_option_of_what_measures():
    for command in ("measure", "compare", "correct", "approx"):
        assert "--no-cache" in CliRunner().invoke(main, [command, "--help"]).output


def test_the_fewest_rows_near_the_fastest_are_taken():
    cost = {16: 1.2, 32: 1.01, 64: 1.0, 128: 1.3, 256: 0.1}
    asked = []

    def seconds(rows):
        asked.append(rows)
        return rows * cost[rows]

    assert pace.fastest(seconds) == 32
    assert max(asked) == 128  # it ends where a row costs a quarter more
    asked.clear()
    assert pace.fastest(seconds, budget=100) == 32
    assert sum(asked) <= 100


def test_rows_at_once_are_kept_for_a_run_that_goes_on(folder, rows, tmp_path, monkeypatch):
    made, shards = checkpoint(), Shards(tmp_path / "run", {})
    monkeypatch.setattr(pace, "fastest", lambda seconds, budget: 16)
    assert pace.set_pace(made, PROTOCOL, 10, shards) is None  # few rows are not worth a trial
    assert pace.set_pace(made, PROTOCOL, 10**6, shards) == 16
    rows.clear()
    made.model(torch.randn(40, 1, 8, 8), torch.tensor(0.5))
    assert rows == [16, 16, 8]
    shards.save(0, ns.shift.reading.BatchReadings(1, torch.zeros(1)))
    monkeypatch.setattr(pace, "fastest", lambda seconds, budget: 64)
    monkeypatch.setenv("NOISESHIFT_CACHE", "off")
    assert pace.set_pace(made, PROTOCOL, 10**6, Shards(tmp_path / "run", {})) == 16


FINER, WHICH = ns.solver("heun:6"), range(4)


def final(made, protocol=PROTOCOL, finer=FINER, indices=WHICH):
    """Final samples of a finer run, and whether they had to be made."""
    asked = []

    def sampled():
        asked.append(indices)
        return torch.randn(len(indices), 1, 8, 8)

    return kept_or_sampled(made, protocol, finer, indices, sampled), bool(asked)


def test_final_samples_of_a_finer_run_come_back_to_the_bit(folder):
    first, made = final(checkpoint())
    again, made_again = final(checkpoint(), dataclasses.replace(PROTOCOL, points=3, estimators=("residual", "network")))
    assert made
    assert not made_again
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "other",
    [
        {"made": checkpoint(weight=1e-6)},
        {"made": checkpoint(schedule=ns.Cosine())},
        {"made": dataclasses.replace(checkpoint(), sampled=checkpoint(weight=0.1).model)},
        {"made": checkpoint().to("cpu", "bf16"), "protocol": dataclasses.replace(PROTOCOL, precision="bf16")},
        {"protocol": dataclasses.replace(PROTOCOL, seed=1)},
        {"protocol": dataclasses.replace(PROTOCOL, guidance=ns.classifier_free(1.5))},
        {"finer": ns.solver("heun:7")},
        {"finer": ns.solver("em:6")},
        {"indices": range(4, 8)},
    ],
)
def test_final_samples_of_anything_else_are_made_anew(other, folder):
    final(checkpoint())
    _, made = final(**{"made": checkpoint(), **other})
    assert made


def test_a_run_that_is_made_again_samples_its_content_control_once(folder, rows):
    protocol = dataclasses.replace(PROTOCOL, points=2)
    first = ns.run(checkpoint(), protocol, DATA)
    asked = sum(rows)
    rows.clear()
    again = ns.run(checkpoint(), protocol, DATA)
    sampling, reading = 4 * 4, 2 * 4
    assert sum(rows) == sampling + reading
    assert asked > sum(rows) + 4 * 15  # heun:8, and what calibrates
    before, after = (run.reports["residual"].content for run in (first, again))
    assert np.array_equal(before.t, after.t)


def test_neither_own_code_nor_large_samples_are_kept(folder, monkeypatch):
    own = dataclasses.replace(checkpoint(), sampled=ns.wrap(lambda x, t, cond: x, ns.Linear()))
    final(own)
    monkeypatch.setattr(kept_samples, "LARGEST", 4 * 4 * 64 - 1)
    final(checkpoint())
    assert not folder.exists()


def test_the_folder_does_not_grow_in_bytes_either(folder, monkeypatch):
    monkeypatch.setattr(kept, "BYTES", 5000)
    for seed in range(4):
        kept.save("x", {"seed": seed}, {"a": np.zeros(300)})
    assert kept.load("x", {"seed": 3}) is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5000


def test_what_a_killed_process_left_of_a_file_goes_with_the_next(folder):
    kept.save("preflight", {"a": 1}, {"x": np.ones(3)})
    (place,) = folder.iterdir()
    left = folder / f".{place.name}.new-01234567.npz"
    left.write_bytes(b"PK")
    kept.save("preflight", {"a": 1}, {"x": np.ones(3)})
    assert list(folder.iterdir()) == [place]


def test_a_file_that_another_process_is_writing_is_left_to_it(folder):
    kept.save("preflight", {"a": 1}, {"x": np.ones(3)})
    (place,) = folder.iterdir()
    with multiprocessing.get_context("fork").Pool(1) as other:
        with locked(place):
            other.apply(kept.save, ("preflight", {"a": 1}, {"x": np.zeros(3)}))
    assert kept.load("preflight", {"a": 1})["x"].tolist() == [1, 1, 1]
