"""The comparison of corrections, on the bundled model and on exact ones."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.correct import _size, plot_scales, plot_shifts, plot_trade
from noiseshift.cli import main
from reports import report_of

import noiseshift as ns
from noiseshift.correction import methods as methods_of
from noiseshift.evaluation import ClassifierFeatures, extract
from noiseshift.shift.summary import reduction, rms_draws, rms_shift
from noiseshift.studies import correct as correction
from noiseshift.studies.correct_exact import correct_exact, mixture, power_law
from noiseshift.studies.protocol import Protocol


def report(shift, seed=0, n=400, spread=0.01):
    """A report whose states read `shift` too high, with noise."""
    rng = np.random.default_rng(seed)
    times = np.array([0.6, 0.3])
    real = times + spread * rng.standard_normal((n, 2))
    sampled = times + shift + spread * rng.standard_normal((n, 2))
    return report_of(times, sampled, real, name="test")


def test_the_rms_shift_does_not_count_its_own_error():
    assert rms_shift(report(0.02)) == pytest.approx(0.02, rel=0.08)
    assert rms_shift(report(0.0)) < 0.001


def test_a_reduction_has_a_paired_interval():
    half = reduction(report(0.01), report(0.02))
    assert half.value == pytest.approx(0.5, abs=0.06)
    assert half.low < 0.5 < half.high
    assert half.resolved
    same = reduction(report(0.02), report(0.02))
    assert same.value == 0
    assert not same.resolved
    # Nothing to reduce, whatever the noise says.
    for seed in range(3, 8):
        assert np.isnan(reduction(report(0.01), report(0.0, seed=seed)).value)


def test_where_nothing_can_be_read_there_is_no_bound_and_figures_say_so():
    times = np.array([0.6, 0.3])
    unread = report_of(times, times + np.zeros((40, 2)), times + np.zeros((40, 2)), slope=22.0)
    assert not unread.readable.any()
    assert np.isnan(rms_draws(unread)).all()
    assert np.isnan(reduction(unread, unread).value)
    table = pd.DataFrame(
        [{"method": "none", "kind": "none", "scale": 0.0, "FD": 1.0, "FD low": 0.5, "FD high": 2.0}] * 3
    )
    table["kind"] = ["none", "nag", "nag"]
    for column in ("rms", "rms low", "rms high", "reduction", "reduction low", "reduction high"):
        table[f"{column} test"] = np.nan
    assert _size(dict(table.iloc[0]), "test") == "·"
    words = {"distance": "FD", "estimator": "test"}
    shifts = pd.DataFrame({"method": "none", "t": [0.6, 0.3], "shift": np.nan, "low": np.nan, "high": np.nan})
    drawn = (plot_shifts(shifts, "test"), plot_trade(table, **words), plot_scales(table, **words)[1])
    assert [len(ax.texts) for ax in drawn] == [1, 1, 1]
    plt.close("all")


def test_correct_compares_and_writes(tmp_path):
    out = tmp_path / "found"
    words = "correct --small --sampler em:4 --samples 12 --measured 8 --nag 0,1 --batch 8 --no-progress --json"
    words += " --method projection --method classifier-nag=1"
    result = CliRunner().invoke(main, [*words.split(), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["method"] for row in found["methods"]] == ["none", "nag=1", "projection", "classifier-nag=1"]
    assert [row["nfe"] for row in found["methods"]] == [4, 8, 4, 4]
    # The level is read where t <= 0.95: at three of the four conditioning times; classifier guidance is evaluated there too.
    assert [row["level calls"] for row in found["methods"]] == [0, 0, 3, 3]
    assert {path.name for path in out.iterdir()} == {
        *(
            "run.json",
            "methods.csv",
            "shift-network.csv",
            "shift-constant-pixel.csv",
            "figures",
            "noiseshift.json",
            "report.html",
        )
    }
    table = pd.read_csv(out / "methods.csv")
    assert table["reduction network"].iloc[0] == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_resumed_correction_knows_its_cost(tmp_path):
    checkpoint, images, extractor = ns.load(), ns.data.reference(), ClassifierFeatures()
    protocol = Protocol(ns.solver("em:3"), 4, {"constant-pixel": None}, batch=2)
    whole, second = (
        correction.run(
            checkpoint,
            protocol,
            [ns.method("projection")],
            images,
            extractor,
            extract(images.pixels[:200], extractor),
            small=True,
            shards=correction.shards_of(tmp_path / "run", {}, [ns.method("projection")]),
        ).table()
        for _ in range(2)
    )
    assert list(second.nfe) == list(whole.nfe) == [3, 3]
    assert list(second["level calls"]) == list(whole["level calls"])
    assert whole.seconds.notna().all()
    assert second.seconds.isna().all()


def test_domain_guidance_and_autoguidance_evaluate_the_other_model_too(tmp_path):
    words = "correct --small --sampler em:3 --samples 4 --nag 0 --against fashion-sit --estimator constant-pixel --no-progress"
    words += " --json --cfg 1 --method dog=1 --method autoguidance=1"
    result = CliRunner().invoke(main, [*words.split(), "--out", str(tmp_path / "x")])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["chosen"] == [
        "none",
        "of so few samples no change of FD-fashion has an interval, so that no gain can be shown",
    ]
    table = pd.DataFrame(said["methods"]).set_index("method")
    assert list(table.nfe) == [3, 6, 6, 6]
    # Against itself domain guidance is CFG, and autoguidance is nothing.
    assert table.loc["dog=1", "FD-fashion"] == pytest.approx(table.loc["cfg=1", "FD-fashion"], rel=1e-4)
    assert table.loc["autoguidance=1", "FD-fashion"] == pytest.approx(table.loc["none", "FD-fashion"], rel=1e-4)


def test_another_schedules_model_cannot_guide(tmp_path):
    words = f"correct --small --sampler em:3 --samples 4 --nag 0 --method dog=1 --against fashion-ddpm --out {tmp_path / 'x'}"
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 1
    assert "another schedule" in result.output


def test_projection_needs_an_update_that_can_be_changed(tmp_path):
    words = "correct --small --sampler diffusers/EulerDiscreteScheduler:4 --samples 4 --nag 0 --method projection --no-progress"
    result = CliRunner().invoke(main, ["correct", "fashion-ddpm", *words.split()[1:], "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "changes the sampler's update" in result.output


def test_on_an_exact_gaussian_the_solver_shifts_and_corrections_take_it_back():
    case = power_law(128)
    methods = [methods_of.unguided(), ns.method("nag=1"), ns.method("projection")]
    table = correct_exact(case, ns.solver("em:10"), methods, paths=128).set_index("method")
    assert table.loc["none", "δ(0.3)"] > 0.015
    assert table.loc["nag=1", "rms"] < table.loc["none", "rms"]
    assert table.loc["projection", "rms"] < table.loc["nag=1", "rms"]
    quiet = correct_exact(case, ns.solver("euler:10"), methods[:1], paths=128).iloc[0]
    assert quiet.rms < 0.4 * table.loc["none", "rms"]


def test_the_exact_distance_of_the_targets_own_draws_is_small():
    for case in (power_law(64), mixture()):
        draws = case.target.sample(2000, torch.Generator().manual_seed(0))
        spread = float(np.trace(case.moments.cov))
        assert case.distance(draws) < 0.03 * spread
        assert case.distance(draws * 1.3) > 2 * case.distance(draws)
