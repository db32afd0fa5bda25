"""Vectors, signals and other states that are no pictures: measured to the end, kept as numbers, drawn as suits them."""

import json
import logging
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis import plots
from noiseshift.analysis.correct import plot_grids
from noiseshift.analysis.plots import save_figures
from noiseshift.analysis.report import page
from noiseshift.analysis.samples import plot_states, save_samples
from noiseshift.analysis.training import save_pictures
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


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 16), (2, 6, 6), (3, 8, 4), (1, 1, 1), (1, 3, 4, 4)])
def test_every_shape_is_measured_and_drawn(shape):
    run = measured(shape, controls=shape == (1,))
    drawn = plot_states(run.pictures)
    assert drawn.has_data()
    plt.close("all")


@pytest.mark.parametrize(
    ("shape", "lines", "points", "pictures", "title"),
    [
        ((2,), 0, 1, 0, ""),  # a toy
        ((128,), 8, 0, 0, ""),  # a signal without an axis for channels
        ((2, 128), 16, 0, 0, ""),
        ((10, 8), 0, 0, 1, "10 samples, 10 rows of 8 numbers each"),  # tokens
        ((7, 4, 4), 0, 0, 1, "7 channels, one below another"),
        ((1, 5, 4, 4), 0, 0, 1, "a sample per row, its first 5 frames"),
        ((3, 20, 4, 6), 0, 0, 1, "a sample per row, its first 8 frames"),
        ((4, 2, 4, 4), 0, 0, 1, "a sample per row, its first 2 frames"),  # latents of a video
    ],
)
def test_the_figure_suits_the_shape(shape, lines, points, pictures, title):
    ax = plot_states(torch.randn(12, *shape, generator=torch.Generator().manual_seed(0)))
    assert (len(ax.lines), len(ax.collections), len(ax.images)) == (lines, points, pictures)
    assert ax.get_title().partition(";")[0] == title
    plt.close("all")


def test_a_training_on_latents_draws_them(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    save_pictures(torch.randn(4, 4, 6, 6), None, tmp_path)
    assert (tmp_path / "samples.png").exists()


def test_a_videos_frames_stand_in_their_order():
    video = torch.zeros(2, 3, 4, 2, 2)
    video[0, 0, 1] = 1  # red, in the second frame of the first sample
    shown = np.asarray(plot_states(video).images[0].get_array())
    assert shown.shape == (2 * 3, 4 * 3, 3)  # a white line between frames
    assert (shown[:2, 3:5] == [255, 0, 0]).all()
    assert not shown[3:5, :2].any()
    plt.close("all")


def test_the_page_and_the_folder_of_signals(tmp_path, caplog):
    run = measured((2, 16))
    run.save(tmp_path / "run")
    kept = ns.Run.load(tmp_path / "run")
    assert torch.equal(kept.pictures, run.pictures)
    assert "The first 12 samples of the run." in page({"run": kept})
    assert not caplog.records


def test_states_that_have_no_figure_are_one_line(tmp_path, caplog, monkeypatch):
    run = measured((2, 2, 1, 3, 3))
    for name in ("plot_shift", "plot_shift_log_snr", "plot_effective_level", "plot_content_shift"):
        monkeypatch.setattr(plots, name, lambda *_, **__: plt.subplots()[1])  # which are drawn elsewhere
    with caplog.at_level(logging.WARNING):
        figures = {path.stem for path in save_figures(run, tmp_path / "figures")}
    assert figures
    assert "samples" not in figures
    assert [record.getMessage().count("there is no figure of states (2, 2, 1, 3, 3)") for record in caplog.records] == [
        1
    ]


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


def spread(ax):
    """How far the first samples reach, as they are drawn."""
    if ax.images:
        grey = ax.images[0].get_array()
        return np.std(grey[grey < 255])
    return np.std(ax.lines[0].get_ydata() if ax.lines else ax.collections[0].get_offsets()[:, 0])


@pytest.mark.parametrize("shape", [(2,), (1, 12), (5, 6, 6), (2, 3, 4, 4), (9, 8)])
def test_samples_of_several_methods_share_one_scale(shape):
    narrow = torch.randn(12, *shape, generator=torch.Generator().manual_seed(0)) / 10
    methods = (ns.method(word) for word in ("epsilon-scaling=1", "epsilon-scaling=2"))
    outcomes = [
        SimpleNamespace(method=m, pictures=part) for m, part in zip(methods, (narrow, 10 * narrow), strict=True)
    ]
    left, right = plot_grids(SimpleNamespace(outcomes=outcomes)).flat
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert spread(right) > 4 * spread(left)
    plt.close("all")


TOKENS = """
import noiseshift as ns

def model():
    return ns.wrap(lambda x, t, cond=None: x, ns.Linear(), blind=lambda x, cond=None: x), {"shape": [6, 4]}
"""


@pytest.mark.parametrize(
    "command", ["correct --nag 1 --estimator residual --measured 8", "compare --checkpoint toy:model"]
)
def test_a_range_holds_for_the_reference_too(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    (tmp_path / "toy.py").write_text(TOKENS)
    np.save("rows.npy", np.random.default_rng(0).standard_normal((40, 6, 4)).astype("float32"))
    word, *options = command.split()
    shared = (
        "--sampler euler:3 --samples 12 --small --data rows.npy --reference rows.npy --extractor states --no-progress"
    )
    words = [word, *(["toy:model"] if word == "correct" else []), *options, *shared.split(), "--out", "out"]
    given = [*words, "--estimator", "residual"] if word == "compare" else words
    refused = CliRunner().invoke(main, given)
    assert "--range none" in " ".join(refused.output.split())
    result = CliRunner().invoke(main, [*given, "--range", "none"])
    assert result.exit_code == 0, result.output
