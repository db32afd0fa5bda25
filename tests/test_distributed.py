"""Several processes do what one would have done."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from safetensors.torch import load_file

import noiseshift as ns
from noiseshift import distributed
from noiseshift.checkpoints.saving import save
from noiseshift.networks.transformer import Transformer, TransformerConfig

SMALL = "--width 32 --depth 1 --heads 2 --patch 7 --steps 3 --batch 8 --no-progress"


def torchrun(words, processes=2):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([*line, "-m", "noiseshift", *words], capture_output=True, text=True, timeout=120)


def test_a_lone_process_is_the_first_of_one(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.joined() == (0, 1)
    assert distributed.own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.own_device("cuda") == "cuda:3"
    assert distributed.own_device("cpu") == "cpu"


def test_two_processes_train_what_one_trains(tmp_path):
    result = torchrun(["train", *SMALL.split(), "--out", str(tmp_path / "two")])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("written:") == 1
    assert CliRunner().invoke(main, ["train", *SMALL.split(), "--out", str(tmp_path / "one")]).exit_code == 0
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-2, atol=2e-3)  # float16 on disk; sums in another order


def test_batches_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "joined", lambda: (1, 2))
    assert list(range(8)[distributed.share(8)]) == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="multiple of 2"):
        distributed.share(9)


def test_two_processes_measure_what_one_measures(tmp_path):
    import pandas as pd

    torch.manual_seed(0)
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    save(tmp_path / "tiny", network.state_dict(), ns.Card.from_dict({"family": "sit", "heads": 2}))
    pixels = np.random.default_rng(0).integers(0, 256, (120, 1, 8, 8), np.uint8)
    pixels[:, :, 0] = 0
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(120) % 3)
    words = "--samples 20 --batch 8 --sampler em:4 --estimator constant-pixel,residual --points 2 --no-cache"
    line = ["measure", str(tmp_path / "tiny.safetensors"), "--data", str(tmp_path / "x.npz"), *words.split()]
    line += ["--no-progress", "--out"]
    result = torchrun([*line, str(tmp_path / "two")])
    assert result.returncode == 0, result.stderr
    assert CliRunner().invoke(main, [*line, str(tmp_path / "one")]).exit_code == 0
    two, alone = (pd.read_parquet(tmp_path / name / "shift.parquet") for name in ("two", "one"))
    pd.testing.assert_frame_equal(two, alone, check_exact=False, rtol=1e-9)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_processes_draw_what_one_draws(tmp_path):
    result = torchrun(["sample", *"--samples 10 --batch 4 --sampler euler:2 --out".split(), str(tmp_path / "two.npz")])
    assert result.returncode == 0, result.stderr
    words = f"sample --samples 10 --batch 4 --sampler euler:2 --out {tmp_path / 'one.npz'}"
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    with np.load(tmp_path / "two.npz") as two, np.load(tmp_path / "one.npz") as one:
        np.testing.assert_array_equal(two["arr_0"], one["arr_0"])
