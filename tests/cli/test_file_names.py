"""Names that are no text, or no plain text: everything is measured, written and read again, and shown escaped."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
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
    terminal = True  # click strips no escapes
    shown = CliRunner().invoke(main, [str(word) for word in words], color=terminal)
    assert shown.exit_code == 0, shown.output
    assert "left out" not in shown.stderr
    assert ODD not in shown.output
    assert "\x1b[31m" not in shown.output
    return shown


def test_runs_of_names_that_are_no_text(here):
    run("measure", f"{ODD}.safetensors", *TINY, "--out", f"{ODD}/run")
    shutil.copytree(f"{ODD}/run", f"other{ODD}")
    run("compare", f"{ODD}/run", f"other{ODD}", "--out", f"c{ODD}")
    about = json.loads(Path(f"c{ODD}", "comparison.json").read_text())
    assert [name for name in about["runs"] if r"gr\xf6\xdfe" in name]
    assert run("info", f"{ODD}.safetensors").output.startswith(r"name         gr\xf6\xdfe")
    run("report", f"{ODD}/run", f"c{ODD}", "--out", f"{ODD}.html")


@pytest.fixture
def blank(monkeypatch):
    """Figures with nothing in them: names in figures are drawn above."""
    from matplotlib.figure import Figure

    save = Figure.savefig
    kept = ("format", "metadata")

    def savefig(self, file, **how):
        save(Figure(figsize=(1, 1)), file, **{name: how[name] for name in kept if name in how})

    monkeypatch.setattr(Figure, "savefig", savefig)


MODEL = "ODD.safetensors --config ODD.config.yaml"
READ = f"{MODEL} --data ODD.npz --sampler euler:2 --estimator residual"
LINES = [
    "train ODD.npz --config ODD.config.yaml --width 16 --depth 1 --heads 2 --patch 14 --batch 8 --steps 2 --out ODD",
    f"finetune {MODEL} --data ODD.npz --batch 8 --steps 2 --out ODD",
    f"train-estimator {MODEL} --data ODD.npz --batch 8 --steps 2 --out ODD.new.safetensors",
    f"approx {READ} --times 0.5 --ratios 0.5 --rows 8 --substeps 2 --out ODD",
    f"correct {READ} --samples 4 --measured 2 --nag 0 --reference ODD.npz --small --out ODD",
    f"sample {MODEL} --sampler euler:2 --samples 2 --out ODD.new.npz",
    f"sample {MODEL} --sampler euler:2 --samples 2 --out ODD/new/ODD.png",
    "evaluate ODD.npz --reference ODD.npz --small",
    "audit ODD.pipeline --steps 4 --accept first-level --out ODD",
    "info ODD.safetensors --card ODD.yaml --json",
    "info ODD.pipeline",
    "sample ODD.pipeline --sampler own:2 --samples 2 --config ODD.config.yaml --out ODD.new.npz",
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_every_command_takes_names_that_are_no_text(here, blank, line):
    """As what is read, as options and as what is written; a second run knows its own result."""
    words = [word.replace("ODD", ODD) for word in line.split()]
    (here / f"{ODD}.config.yaml").write_text("seed: 1\n")
    shutil.copy("few.npz", f"{ODD}.npz")
    if "ODD.pipeline" in line:
        pipeline(here / f"{ODD}.pipeline")
    run(*words)
    if "--out" in words:
        assert Path(words[-1]).exists()
    if words[0] in ("sample", "train-estimator", "audit"):
        run(*words)


def pipeline(folder):
    """diffusers itself writes to names of text alone."""
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        norm_num_groups=2,
        layers_per_block=1,
        attention_head_dim=2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(network, DDPMScheduler()).save_pretrained("pipeline")
    Path("pipeline").rename(folder)
