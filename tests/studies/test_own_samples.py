"""Measuring without data: against re-noised final samples of the run itself, and said so everywhere."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.answer import answer
from noiseshift.analysis.plots import plot_effective_level, plot_shift, plot_shift_log_snr
from noiseshift.analysis.report import page
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.diffusion.models import Model
from noiseshift.estimators.instrument import DATA, OWN
from noiseshift.studies.compare import compare
from noiseshift.studies.cost import parts
from noiseshift.studies.own_samples import own_samples
from noiseshift.studies.sampling import sampler_run
from noiseshift.studies.shards import Shards

SAID = "re-noised final samples of its own run, not data"


def checkpoint(model=None, shape=(1, 4, 4)):
    """A perfect model of Gaussian data."""
    if model is None:
        size = int(np.prod(shape))
        target = ns.targets.Gaussian(torch.zeros(size, dtype=torch.float64), torch.full((size,), 0.25))
        exact = target.model(ns.Linear())
        model = ns.wrap(lambda x, t, cond: exact(x.flatten(1), t).x0.reshape(x.shape), ns.Linear(), predicts="x0")
    assert isinstance(model, Model)
    return Checkpoint("mine", model, Card("callable"), "0" * 64, shape, 0, None, lambda x: x)


def protocol(**changes):
    given = {
        "samples": 48,
        "estimators": {"residual": None},
        "points": 3,
        "batch": 20,
        "calibration_rows": 40,
    } | changes
    return ns.Protocol("heun:6", **given)


@pytest.fixture(scope="module")
def measured():
    return ns.run(checkpoint(), protocol(controls=True), None)


def test_the_baseline_is_other_samples_of_the_same_run():
    made = checkpoint()
    first, second = own_samples(made, made.model, protocol(), None, lambda *_: None)
    assert (len(first), len(second)) == (40, 0)

    *_, last = sampler_run(made.model, made, protocol(), range(48, 88))
    assert torch.equal(first.pixels, last.x)  # of the indices that follow those that are measured, whatever the batch
    assert len(own_samples(made, made.model, protocol(controls=True), None, lambda *_: None)[1]) == 40


def test_a_perfect_model_has_no_shift_against_its_own_samples(measured):
    assert not measured.answer.significant
    assert all(check.passed for check in measured.controls.checks if check.passed is not None)


def test_a_shift_on_the_way_is_seen_without_data():
    run = ns.run(checkpoint(), replace(protocol(samples=64), solver="em:5"), None)
    assert run.answer.significant


def test_it_is_said_in_the_table_the_manifest_the_sentences_and_the_figures(measured, tmp_path):
    assert SAID == OWN
    assert set(measured.table().baseline) == {OWN}
    assert "content_shift" not in measured.table()
    assert measured.manifest["baseline"] == measured.manifest["data read as"] == OWN
    lines = answer(measured).lines
    assert all(SAID in line for line in lines[:2])
    assert "held-out" not in " ".join(lines)
    assert all("real" not in check.sentence for check in measured.controls.checks[:2])
    for plot in (plot_shift, plot_shift_log_snr, plot_effective_level):
        assert SAID in plot(measured.reports).get_ylabel()
    shown = page({"run": measured})
    assert len(re.findall(SAID, shown)) > 8
    assert "<th>δ</th>" not in shown.replace(' scope="col"', "")
    assert "δ own" in shown
    kept = ns.Run.load(measured.save(tmp_path / "run"))
    assert kept.baseline == OWN
    assert json.loads((tmp_path / "run" / "run.json").read_text())["baseline"] == OWN


def test_the_preflight_says_what_it_could_not_check(measured):
    named = {check.name: check for check in measured.preflight.checks}
    assert "no data were given" in named["data"].sentence
    assert measured.preflight.passed


def test_an_interrupted_run_goes_on_with_the_same_samples(tmp_path):
    made, about = checkpoint(), {"a": 1}
    whole = ns.run(made, protocol(), None)
    shards = Shards(tmp_path / "run", about)
    own_samples(made, made.model, protocol(), shards, lambda *_: None)
    assert len(list(shards.folder.glob("*.npz"))) == 2
    again = ns.run(made, protocol(), None, shards=Shards(tmp_path / "run", about))
    assert np.array_equal(whole.reports["residual"].calibration.real.t, again.reports["residual"].calibration.real.t)
    assert np.array_equal(whole.reports["residual"].sampled.t, again.reports["residual"].sampled.t)


def test_runs_against_data_and_against_themselves_are_not_compared(measured):
    data = ns.data.Images(torch.randn(80, 1, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) / 2)
    other = ns.run(checkpoint(), protocol(), data)
    assert other.baseline == DATA
    with pytest.raises(ValueError, match="cannot be compared"):
        compare({"a": measured, "b": other}, "residual")
    alone = compare({"a": measured, "b": measured}, "residual")
    assert alone.baseline == OWN
    assert SAID in page({"both": alone})


def test_estimators_that_need_data_are_refused():
    with pytest.raises(ValueError, match="constant-pixel"):
        ns.run(checkpoint(), protocol(estimators={"constant-pixel": None}), None)


def test_studies_of_real_images_refuse_in_one_line():
    with pytest.raises(ValueError, match="give held-out"):
        ns.correct(checkpoint(), protocol(), [], None, None, None, small=True)
    with pytest.raises(ValueError, match="give held-out"):
        ns.approximate(checkpoint(), ns.Plan(("euler:4",)), None)


def test_the_cost_counts_what_is_called():
    made, calls = checkpoint(), 0
    inner = made.model

    def counted(x, t, cond):
        nonlocal calls
        calls += len(x)
        return inner(x, t).x0

    wanted = protocol(controls=True, samples=16, calibration_rows=16)
    made = checkpoint(ns.wrap(counted, ns.Linear(), predicts="x0"))
    ns.run(made, wanted, None)
    foreseen = {part.name: part.calls for part in parts(made, wanted, None)}
    assert foreseen["own samples"] == 32 * 11
    assert sum(foreseen.values()) == pytest.approx(calls, rel=0.02)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The bundled network as somebody's own checkpoint: its card does not say what it was trained on."""
    folder = tmp_path_factory.mktemp("foreign")
    file = folder / "mine.safetensors"
    file.write_bytes((ns.data.ASSETS / "fashion-sit.safetensors").read_bytes())
    lines = (ns.data.ASSETS / "fashion-sit.yaml").read_text().splitlines(keepends=True)
    file.with_suffix(".yaml").write_text(
        "".join(line for line in lines if not line.startswith(("data:", "estimator:")))
    )
    return file


@pytest.mark.parametrize("words", [("measure",), ("compare", "--sampler", "euler:4", "--checkpoint")])
def test_no_bundled_images_for_somebodys_checkpoint(words, foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*words, str(foreign)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    for choice in ("--data FOLDER", "--data bundled", "--data none"):
        assert choice in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("correct",), ("approx",), ("finetune", "--out", "runs/x")])
@pytest.mark.parametrize("given", [(), ("--data", "none")])
def test_studies_that_need_images_ask_for_them(words, given, foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [words[0], str(foreign), *words[1:], *given])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "--data FOLDER" in result.stderr


@pytest.mark.parametrize(
    "words", [("correct", "--data", "bundled"), ("compare", "--sampler", "euler:4", "--data", "none")]
)
def test_no_bundled_statistics_for_somebodys_checkpoint(words, foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = ["--extractor", "fashion", "--checkpoint", str(foreign)] if words[0] == "compare" else [str(foreign)]
    result = CliRunner().invoke(main, [*words, *named])
    assert (result.exit_code, "--reference" in result.stderr) == (2, True)
