"""What a training resumes from: state and log in one file, put aside where it cannot be read."""

import json
import logging
from pathlib import Path

import pytest
import torch

from noiseshift.training.states import keep_state, kept_state, save_tensors, write_tensors

ROWS = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_state_and_log_come_back_together(tmp_path):
    keep_state(tmp_path, {"step": 2, "network": {"w": torch.ones(2)}}, ROWS)
    for name in (".state.pt.new-0123abcd.pt", ".log.jsonl.new-0123abcd.jsonl"):
        (tmp_path / name).write_bytes(b"half")  # a process was killed
    found = kept_state(tmp_path)
    assert found["log"] == ROWS
    assert torch.equal(found["network"]["w"], torch.ones(2))
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "log.jsonl"}
    assert kept_state(tmp_path / "nothing") is None


def test_a_log_that_was_not_written_any_more_is_made_of_the_state(tmp_path):
    keep_state(tmp_path, {"step": 2}, ROWS)
    (tmp_path / "log.jsonl").write_text("")
    assert kept_state(tmp_path)["log"] == ROWS
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ROWS


def test_an_older_state_takes_the_log_up_to_its_step(tmp_path):
    save_tensors({"step": 2}, tmp_path / "state.pt")
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps({"step": n, "loss": 1.5}) + "\n" for n in (1, 2, 3)) + '[]\n{"st'
    )
    assert kept_state(tmp_path)["log"] == [{"step": 1, "loss": 1.5}, {"step": 2, "loss": 1.5}]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_damaged_state_is_put_aside_and_said(share, tmp_path, caplog):
    keep_state(tmp_path, {"step": 2, "network": {"w": torch.randn(500)}}, ROWS)
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: int(share * len(whole))])
    with caplog.at_level(logging.WARNING):
        assert kept_state(tmp_path) is None
    assert "unreadable-1.pt" in caplog.text
    assert not (tmp_path / "state.pt").exists()
    assert kept_state(tmp_path) is None


def test_a_strangers_state_is_not_deleted(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    assert kept_state(tmp_path) is None
    assert torch.load(tmp_path / "unreadable-1.pt", weights_only=True) == {"epoch": 3}


def test_a_full_disk_is_what_is_raised():
    for size in (1, 10_000, 1_000_000):
        with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as file:
            write_tensors({"w": torch.randn(size)}, file)


def test_tensors_are_the_same_bytes_under_any_name(tmp_path):
    for name in ("a.pt", "b.pt"):
        save_tensors({"w": torch.ones(3)}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
