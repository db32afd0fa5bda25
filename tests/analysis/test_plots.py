"""Figures and tables say what the report says."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from reports import log_snr_of, report_of

mpl.use("Agg")

import matplotlib.pyplot as plt
from noiseshift.analysis import plots, tables

import noiseshift as ns
from noiseshift.shift.controls import Check, Controls
from noiseshift.shift.shares import shares
from noiseshift.studies.protocol import ESTIMATORS


def report(shift=0.02, name="network", seed=0):
    rng, times = np.random.default_rng(seed), np.array([0.9, 0.5, 0.1])

    def around(offset, n):
        return times + offset + 0.01 * rng.standard_normal((n, 3))

    real, states, content = around(0.0, 100), around(shift, 80), around(shift / 2, 80)
    return report_of(times, states, real, content=content, name=name, log_snr=log_snr_of)


@pytest.fixture
def run():
    manifest = {
        "checkpoint": {"name": "net"},
        "sampler": "euler:3",
        "samples": 80,
        "seed": 0,
        "guidance": None,
        "seconds": 1,
    }
    table = shares(report(), None, report(0.005))
    checks = (Check("null", True, "fine"), Check("level", False, "off"))
    controls = Controls(checks, solver={"network": report(0.005)}, shares=table)
    reports = {"network": report(), "residual": report(0.0, "residual", 1)}
    return ns.Run(manifest, reports, controls, torch.zeros(20, 1, 28, 28, dtype=torch.uint8), None)


@pytest.fixture(autouse=True)
def close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_the_curve_is_the_table():
    one = report()
    ax = plots.plot_shift(one)
    curve = next(line for line in ax.get_lines() if line.get_label() == "network")
    np.testing.assert_allclose(curve.get_ydata(), one.table()["shift"])
    assert ax.get_xlim() == (1, 0)  # sampling runs from noise to data


def test_every_estimator_has_a_curve_of_its_own():
    names = ESTIMATORS
    ax = plots.plot_shift({name: report(0.02, name) for name in names})
    curves = [line for line in ax.lines if line.get_label() in names]
    assert [line.get_label() for line in curves] == list(names)
    assert len({(line.get_color(), str(line.get_linestyle())) for line in curves}) == len(names)


def test_unresolved_points_are_hollow():
    one = report(0.0)
    points = plots.plot_shift(one).collections[-1]
    filled = points.get_facecolors()[:, :3].min(1) < 0.99
    assert list(filled) == list(one.table().resolved)


def test_the_solver_figure_needs_its_control(run):
    labels = plots.plot_solver(run).get_legend_handles_labels()[1]
    assert labels == ["whole shift", "exact model, same solver"]  # no step was refined here
    with pytest.raises(ValueError, match="measure with --controls"):
        plots.plot_solver(ns.Run(run.manifest, run.reports, None, run.pictures, None))


def test_figures_are_written(run, tmp_path):
    written = plots.save_figures(run, tmp_path)
    assert {path.stem for path in written} >= {"shift", "posteriors", "shift-log-snr", "effective", "samples", "solver"}
    assert all(path.stat().st_size > 1000 for path in written)


def test_the_terminal_report_fits_80_columns_and_says_the_answer(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tables.print_run(run)
    shown = capsys.readouterr().out
    table = shown[: shown.index("● resolved")]
    assert "…" not in table  # no column is cut
    assert table.count("●") == 3
    assert "noisier than their" in shown
    assert "FAIL" in shown


@pytest.mark.parametrize("plot", [plots.plot_shift, plots.plot_shift_log_snr, plots.plot_effective_level])
def test_an_empty_figure_says_that_nothing_was_read(plot):
    times = np.array([0.9, 0.5, 0.1])
    rows = times + 0.01 * np.random.default_rng(0).standard_normal((80, 3))
    unread = report_of(times, rows, rows, slope=0.1, name="residual", log_snr=log_snr_of)
    for given, says in ((unread, ["no state could be read"]), (report(), [])):
        plt.figure()
        drawn = plot({given.estimator: given}, ax=plt.gca())
        assert [text.get_text() for text in drawn.texts] == says
    plt.close("all")


def test_ticks_of_a_short_logarithmic_axis_are_plain_numbers_apart():
    import pandas as pd
    from noiseshift.analysis.approximate import plot_predicted

    first = np.array([0.029, 0.035, 0.08, 0.28])
    rows = {"t": [0.5] * 4, "first_order": first, "measured": first, "low": 0.8 * first, "high": 1.2 * first}
    drawn = plot_predicted(pd.DataFrame({**rows, "resolved": True}))
    drawn.figure.canvas.draw()
    shown = [tick.get_text() for tick in drawn.get_xticklabels(which="both") if tick.get_text()]
    assert {"0.05", "0.1", "0.2"} <= set(shown)
    assert all(float(text) for text in shown)
    plt.close("all")
