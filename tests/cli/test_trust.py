"""Nothing that a file option names is run without --trust."""

import os
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from option_lines import line, options


@pytest.fixture
def script(tmp_path):
    """A TorchScript extractor."""
    traced = torch.jit.trace(torch.nn.Flatten(), torch.zeros(1, 1, 28, 28))
    traced.save(str(tmp_path / "mine.pt"))
    return tmp_path / "mine.pt"


class Touch:
    def __reduce__(self):
        return os.mkdir, ("owned",)


CASES = {
    "evaluate": ["evaluate", "SAMPLES", "--extractor", "SCRIPT", "--reference", "SAMPLES"],
    "compare": ["compare", "--sampler", "euler:4", "--extractor", "SCRIPT", "--reference", "SAMPLES"],
    "correct": ["correct", "--extractor", "SCRIPT", "--reference", "SAMPLES"],
    "checkpoint": ["info", "CODE"],
    "compare's checkpoint": ["compare", "--sampler", "euler:4", "--checkpoint", "CODE"],
    "against": ["correct", "--against", "CODE", "--method", "dog=1"],
    "embeddings": ["info", "--embeddings", "CODE"],
    "card": ["info", "--card", "CODE"],
    "vae": ["info", "--vae", "CODE"],
    "prompts": ["info", "--prompts", "CODE"],
    "data": ["measure", "--data", "CODE"],
    "reference": ["evaluate", "SAMPLES", "--reference", "CODE"],
    "samples": ["evaluate", "CODE"],
    "config": ["measure", "--config", "CODE"],
    "report": ["report", "CODE"],
    "runs": ["compare", "CODE"],
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("case", list(CASES))
def test_no_file_option_runs_what_is_in_the_file(case, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"ema": Touch()}))
    np.savez(tmp_path / "samples.npz", images=np.zeros((4, 28, 28), np.uint8))
    files = {"SCRIPT": str(script), "CODE": "code.pt", "SAMPLES": "samples.npz"}
    found = CliRunner().invoke(main, [files.get(word, word) for word in CASES[case]])
    assert found.exit_code in (1, 2), found.output
    assert not (tmp_path / "owned").exists()
    assert "Traceback" not in found.output
    said = found.stderr.strip().splitlines()
    assert "rror" in said[-1]
    if "SCRIPT" in CASES[case] or case in ("checkpoint", "compare's checkpoint", "against"):
        assert "--trust" in said[-1]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Files of every kind that would run something, and a folder of them."""
    place = tmp_path_factory.mktemp("programs")
    code = pickle.dumps(Touch())
    for name in ("raw.pt", "raw.safetensors", "raw.npy", "folder/run.json", "folder/state.pt", "folder/0.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(code)
    np.savez(place / "objects.npz", images=np.array([Touch()], object))
    torch.save({"ema": Touch()}, place / "archive.ckpt")
    (place / "tag.yaml").write_text("seed: !!python/object/apply:os.mkdir [owned]")
    (place / "code.py").write_text("import os; os.mkdir('owned')")
    return sorted(place.iterdir())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("option", "command"), options().items())
def test_no_option_at_all_runs_what_its_file_holds(option, command, programs, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", images=np.zeros((4, 28, 28), np.uint8))
    for path in (*programs, script):
        found = CliRunner().invoke(main, line(option, command, str(path)))
        assert not (tmp_path / "owned").exists(), path
        assert found.exit_code in (1, 2), (path, found.output)
        assert found.stderr.strip().splitlines()[-1].startswith("error: "), path
