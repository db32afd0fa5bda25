"""Vectors, signals and other states that are no pictures: measured to the end, kept as numbers, drawn as suits them."""

import json
import logging

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis import plots
from noiseshift.analysis.plots import save_figures
from noiseshift.analysis.report import page
from noiseshift.analysis.samples import plot_states, save_samples
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint


def checkpoint(shape):
    size = int(np.prod(shape))
    target = ns.targets.Gaussian(torch.zeros(size, dtype=torch.float64), torch.full((size,), 0.25))
    exact = target.model(ns.Linear())
    model = ns.wrap(lambda x, t, cond: exact(x.flatten(1), t).x0.reshape(x.shape), ns.Linear(), predicts="x0")
    return Checkpoint("mine", model, Card("callable"), "0" * 64, shape, 0, None, lambda x: x)


def measured(shape, **changes):
    rows = torch.randn(60, *shape, generator=torch.Generator().manual_seed(0))
    settings = {"samples": 12, "estimators": {"residual": None}, "points": 2} | changes
    return ns.run(checkpoint(shape), ns.Protocol("euler:4", **settings), ns.data.Images(rows / 2))


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (2, 16), (1, 16), (2, 6, 6), (3, 8, 4), (1, 1, 1)])
def test_every_shape_is_measured_and_drawn(shape):
    run = measured(shape, controls=shape == (1,))
    drawn = plot_states(run.pictures)
    assert drawn.has_data()
    plt.close("all")


def test_the_page_and_the_folder_of_signals(tmp_path, caplog):
    run = measured((2, 16))
    run.save(tmp_path / "run")
    kept = ns.Run.load(tmp_path / "run")
    assert torch.equal(kept.pictures, run.pictures)
    assert "The first 12 samples of the run." in page({"run": kept})
    assert not caplog.records


def test_states_that_have_no_figure_are_one_line(tmp_path, caplog, monkeypatch):
    run = measured((4, 2, 3, 3))
    for name in ("plot_shift", "plot_shift_log_snr", "plot_effective_level", "plot_content_shift"):
        monkeypatch.setattr(plots, name, lambda *_, **__: plt.subplots()[1])  # which are drawn elsewhere
    with caplog.at_level(logging.WARNING):
        figures = {path.stem for path in save_figures(run, tmp_path / "figures")}
    assert figures
    assert "samples" not in figures
    assert [record.getMessage().count("there is no figure of states (4, 2, 3, 3)") for record in caplog.records] == [1]


def test_states_are_kept_as_numbers(tmp_path):
    run = measured((5,))
    assert run.pictures.dtype == torch.float32  # rounded to bytes they would be other states
    assert float(run.pictures.abs().max()) > 1
    save_samples(run.pictures, None, tmp_path / "samples.npz")
    assert ns.data.load_images(tmp_path / "samples.npz").floats.shape == (12, 5)
    with pytest.raises(ValueError, match="no pictures"):
        save_samples(run.pictures, None, tmp_path / "samples.png")


def test_a_strangers_vectors_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "vectors_mine.py").write_text(
        "def model():\n"
        "    return lambda x, t: x * (t - 0.25 * (1 - t)).reshape(-1, 1) / (t**2 + 0.25 * (1 - t)**2).reshape(-1, 1), "
        "{'shape': [6]}\n"
    )
    np.savez("real.npz", states=np.random.default_rng(0).normal(0, 0.5, (80, 6)).astype(np.float32))
    words = [
        "measure",
        "vectors_mine:model",
        "--data",
        "real.npz",
        "--samples",
        "16",
        "--sampler",
        "heun:6",
        "--out",
        "run",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["preflight"]["passed"]
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
    drawn = CliRunner().invoke(main, ["sample", "vectors_mine:model", "--samples", "4", "--sampler", "euler:3"])
    assert drawn.exit_code == 0, drawn.output
    assert len(list(tmp_path.glob("*.npz"))) == 2
    refused = CliRunner().invoke(main, ["sample", "vectors_mine:model", "--out", "x.png"])
    assert (refused.exit_code, "give --out FILE.npz" in refused.stderr) == (2, True)
