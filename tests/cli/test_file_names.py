"""Names that are no text, or no plain text: everything is measured, written and read again, and shown escaped."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints.saving import save
from noiseshift.networks.transformer import Transformer, TransformerConfig

ODD = os.fsdecode(b"gr\xf6\xdfe \x1b[31m$x$ _%")
TINY = "--data few.npz --samples 8 --points 1 --estimator constant-pixel --sampler euler:2 --no-progress".split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    place = tmp_path / ODD
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system takes text alone")
    monkeypatch.chdir(place)
    few = ns.data.reference()[:24]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    network = Transformer(TransformerConfig(28, 1, 14, 16, 1, 2, classes=10))
    save("m", network.state_dict(), ns.Card.from_dict({"family": "sit", "heads": 2}))
    for suffix in ("safetensors", "yaml"):
        Path(f"m.{suffix}").rename(f"{ODD}.{suffix}")
    return place


def run(*words):
    shown = CliRunner().invoke(main, [str(word) for word in words])
    assert shown.exit_code == 0, shown.output
    assert "left out" not in shown.stderr
    assert "\x1b" not in shown.output
    shown.output.encode()  # text alone
    return shown


def test_runs_of_names_that_are_no_text(here):
    run("measure", f"{ODD}.safetensors", *TINY, "--out", f"{ODD}/run")
    shutil.copytree(f"{ODD}/run", f"other{ODD}")
    run("compare", f"{ODD}/run", f"other{ODD}", "--out", f"c{ODD}")
    about = json.loads(Path(f"c{ODD}", "comparison.json").read_text())
    assert [name for name in about["runs"] if r"gr\xf6\xdfe" in name]
    assert run("info", f"{ODD}.safetensors").output.startswith(r"name         gr\xf6\xdfe")
