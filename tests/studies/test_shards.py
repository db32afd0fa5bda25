"""Finished batches: kept whole, apart for every fingerprint, and made again where a disk damaged them."""

import logging
import shutil

import numpy as np
import pytest
import torch

from noiseshift.estimators.instrument import Readings
from noiseshift.shift.reading import BatchReadings
from noiseshift.studies.shards import Shards


def batch(value=1.0):
    readings = Readings(np.full((2, 3), value), np.zeros((2, 3)), np.zeros((3, 4)))
    return BatchReadings(
        size=2,
        final=torch.full((2, 1), value),
        cond=torch.tensor([0, 1]),
        steps=np.arange(3),
        sampled={"residual": readings},
        content={"residual": readings},
    )


def test_a_batch_comes_back_as_it_was(tmp_path):
    Shards(tmp_path / "run", {"seed": 0}).save(0, batch())
    reopened = Shards(tmp_path / "run", {"seed": 0})
    assert reopened.begun
    kept = reopened.load(0)
    assert torch.equal(kept.final, batch().final)
    assert torch.equal(kept.cond, batch().cond)
    assert np.array_equal(kept.sampled["residual"].t, batch().sampled["residual"].t)
    assert reopened.load(2) is None


def test_runs_of_other_fingerprints_neither_read_nor_remove_it(tmp_path, caplog):
    first = Shards(tmp_path / "run", {"seed": 0})
    first.save(0, batch())
    with caplog.at_level(logging.WARNING):
        second = Shards(tmp_path / "run", {"seed": 1})
    assert "1 finished batches of another run (seed was 0, is 1)" in caplog.text
    assert not second.begun
    assert second.load(0) is None
    second.save(0, batch(2.0))
    assert torch.equal(first.load(0).final, batch().final)
    second.clear()
    assert first.load(0) is not None
    first.clear()
    assert list(tmp_path.iterdir()) == []


def test_names_with_patterns_and_parts_stay_apart(tmp_path):
    parts = [
        Shards(tmp_path / "run[1]*", {"seed": 0}, part={name: 1}) for name in ("nag=1", "nag=1,cfg=2", "../x", "a/b")
    ]
    for number, part in enumerate(parts):
        part.save(0, batch(number))
    assert [float(part.load(0).final[0]) for part in parts] == [0, 1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 1
    for part in parts:
        part.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999, None])
def test_a_damaged_batch_is_removed_said_and_made_again(share, tmp_path, caplog):
    shards = Shards(tmp_path / "run", {"seed": 0})
    shards.save(0, batch())
    (path,) = shards.folder.glob("0*.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 64]) + whole[middle + 64 :]
        if share is None
        else whole[: int(share * len(whole))]
    )
    with caplog.at_level(logging.WARNING):
        assert Shards(tmp_path / "run", {"seed": 0}).load(0) is None
    assert len(caplog.records) == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("seed", "part", "start"), [(0, None, 2), (1, None, 0), (0, {"nag=1": 1}, 0)], ids=["batch", "run", "part"]
)
def test_a_batch_of_another_place_is_not_taken(seed, part, start, tmp_path, caplog):
    """Copied by hand, or put back under another name."""
    other = Shards(tmp_path / "other", {"seed": seed}, part)
    other.save(start, batch(3.0))
    shards = Shards(tmp_path / "run", {"seed": 0})
    shards.save(0, batch())
    shutil.copy(next(other.folder.glob("0*.npz")), shards.folder / "00000000.npz")
    assert shards.load(0) is None
    assert "is no batch of this run" in caplog.text
    shards.save(0, batch())
    assert torch.equal(shards.load(0).final, batch().final)


def test_batches_go_with_a_run_that_is_renamed(tmp_path):
    shards = Shards(tmp_path / "run", {"seed": 0})
    shards.save(0, batch())
    shards.root.rename(str(shards.root).replace(".run.", ".new."))
    assert torch.equal(Shards(tmp_path / "new", {"seed": 0}).load(0).final, batch().final)


def test_what_a_killed_process_was_writing_goes(tmp_path):
    shards = Shards(tmp_path / "run", {"seed": 0})
    shards.save(0, batch())
    (shards.folder / ".00000002.npz.new-0123abcd.npz").write_bytes(b"half")
    (tmp_path / ".run.partial-0123456789abcdef").mkdir()  # begun, and killed before its first batch
    Shards(tmp_path / "run", {"seed": 0})
    assert {path.name for path in shards.folder.iterdir()} == {"00000000.npz", "fingerprint.json"}
    Shards(tmp_path / "run", {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == [shards.root.name]


@pytest.mark.parametrize("said", ["true", "false", "0", "-3", "4.0", '"4"', "null", "[4]", "", "{"])
def test_rows_at_once_are_a_number_or_none(said, tmp_path):
    shards = Shards(tmp_path / "run", {"seed": 0})
    shards.save(0, batch())
    (shards.root / "rows.json").write_text(said)
    assert Shards(tmp_path / "run", {"seed": 0}).rows is None
    (shards.root / "rows.json").write_text("4")
    assert Shards(tmp_path / "run", {"seed": 0}).rows == 4
