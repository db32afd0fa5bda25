"""Many runs beside each other: grids that resume, differences that are paired, tables that a paper can print."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis import compare as figures
from noiseshift.analysis import compare_tables
from noiseshift.analysis.drawing import PAPERS, style
from noiseshift.analysis.page_compare import answer, compared
from noiseshift.cli import main
from reports import readings, report_of

import noiseshift as ns
from noiseshift.evaluation import ClassifierFeatures, evaluate, load_reference, paired_change
from noiseshift.reading import ReadingError
from noiseshift.shift.controls import Controls
from noiseshift.shift.shares import shares
from noiseshift.studies.cells import as_text, from_text
from noiseshift.studies.compare import Comparison, compare
from noiseshift.studies.differences import holm
from noiseshift.studies.folders import Run
from noiseshift.studies.grid import Cell, grid, run_grid
from noiseshift.studies.protocol import Protocol, fingerprint
from noiseshift.studies.shards import Shards

TIMES = np.array([0.6, 0.3, 0.1])


def run(shift, rng, *, common, real, name="euler:9", nfe=9, seed=0, times=TIMES):
    """A run whose readings are off by `shift`, its states sharing half of their noise with the other runs'."""
    states = times + shift + 0.01 * (common + rng.standard_normal((len(common), len(times)))) / 2**0.5
    report = report_of(times, states, real)
    about = {"checkpoint": {"name": "toy_a"}, "sampler": name, "guidance": None, "seed": seed, "samples": len(states)}
    return Run(about | {"nfe": nfe, "seconds": 1.0}, {"network": report}, None, torch.zeros(1, 1, 2, 2), None)


def family(shifts, seed=0, n=150):
    rng = np.random.default_rng(seed)
    real = TIMES + 0.01 * rng.standard_normal((n, 3))
    common = rng.standard_normal((n, 3))
    runs = {
        f"run_{k}": run(s, rng, common=common, real=real, name=f"euler:{5 * (k + 1)}", nfe=5 * (k + 1))
        for k, s in enumerate(shifts)
    }
    return compare(runs, "network")


def test_holm_is_the_step_down_procedure():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert holm([]) == []


def test_differences_are_found_and_the_best_is_what_is_not_resolved_from_it():
    found = family([0.02, 0.005, 0.0052])
    pairs = found.pairs.set_index(["first", "second"])
    assert pairs.loc[("run_0", "run_1"), "resolved"]
    assert not pairs.loc[("run_1", "run_2"), "resolved"]
    low, high = pairs.loc[("run_0", "run_1"), ["low", "high"]]
    assert low < 0.02**2 - 0.005**2 < high
    assert found.best("rms") == {"run_1", "run_2"}


def test_the_answer_says_what_is_least_and_what_is_open():
    found = family([0.02, 0.005, 0.0052])
    first, second, third = answer(found)
    least = found.table.run[found.table.rms.idxmin()]
    other = (found.best("rms") - {least}).pop()
    assert first.startswith(f"The least shift, by network between t = 0.6 and 0.1, is {least}'s: rms δ 0.0")
    assert first.endswith(f"not significantly different: {other}.")
    assert second.startswith("Distances to real images were not taken")
    assert third == "Not resolved at 5 % (Holm): in rms δ 1 of 3 pairs (run_1 and run_2)."
    assert answer(family([0.02, 0.005]))[2] == "Every pair is resolved at 5 % (Holm)."
    found.runs["run_1"].manifest["seed"] = 1
    assert answer(compare(found.runs, "network"))[2].endswith(
        "2 of 3 tests are of runs that share no samples, which see less."
    )


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_equal_runs_differ_significantly_no_more_often_than_said(shift):
    """Twenty-eight pairs a table: a false difference anywhere in it comes in at most 5 % of tables (binomial 99 %)."""
    tables = 30
    false = sum(bool(family([shift] * 8, seed=seed, n=80).pairs.resolved.any()) for seed in range(tables))
    assert false <= 5  # binom(30, 0.05) stays within it in 99 % of cases


def unlike(ends, seed, *, paired):
    """Two runs of 150 and, unless they share their samples, 100, conditioned on unlike levels; δ(t) falls from its end at t = 0."""
    rng, runs = np.random.default_rng(seed), {}
    steps = np.array([0.8, 0.6, 0.4, 0.2]), np.array([0.95, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])
    common = rng.standard_normal((150, 1))
    images = rng.standard_normal((200, 1))
    for k, (end, times) in enumerate(zip(ends, steps, strict=True)):
        shared = common if paired else rng.standard_normal((150 - 50 * k, 1))
        real = times + 0.01 * (images + rng.standard_normal((200, len(times)))) / 2**0.5
        runs[f"run_{k}"] = run(end * (1 - times), rng, common=shared, real=real, times=times, seed=0 if paired else k)
    return compare(runs, "network")


@pytest.mark.parametrize("paired", [True, False])
def test_one_truth_on_unlike_grids_differs_as_often_as_said(paired):
    """Steps nearer to the data see more of the same δ(t): only a mean along shared levels is the same number."""
    found = [unlike((0.03, 0.03), seed, paired=paired) for seed in range(60)]
    assert sum(bool(each.pairs.resolved.item()) for each in found) <= 8  # binom(60, 0.05) within it in 99.5 %
    scaled = [each.pairs.difference.item() / (each.pairs.high - each.pairs.low).item() for each in found]
    assert 0.2 < np.std(scaled) < 0.32  # a standard error is 1/3.9 of an interval: neither too sure nor too shy
    assert found[0].span == (0.2, 0.8)
    assert found[0].pairs.paired.item() == paired
    naive = [[np.mean(each.report(name).shift() ** 2) for name in each.runs] for each in found]
    first, second = np.mean(naive, axis=0)
    assert second > 1.25 * first  # what would be compared without


@pytest.mark.parametrize("paired", [True, False])
def test_a_real_difference_on_unlike_grids_is_found(paired):
    found = [unlike((0.03, 0.04), seed, paired=paired) for seed in range(20)]
    assert sum(bool(each.pairs.resolved.item()) for each in found) >= 18
    truth = (0.03**2 - 0.04**2) * (0.8**3 - 0.2**3) / 3 / 0.6  # ∫ (1 - t)² dt over the span, as a mean
    assert sum(each.pairs.low.item() < truth < each.pairs.high.item() for each in found) >= 17


def test_runs_of_other_seeds_are_tested_without_pairing():
    found = family([0.01, 0.012])
    found.runs["run_1"].manifest["seed"] = 1
    loose = compare(found.runs, "network")
    assert not loose.pairs.paired.any()
    assert found.pairs.paired.all()
    assert loose.pairs.p.item() > 2 * found.pairs.p.item()  # the noise that they share does not cancel
    assert loose.best("rms") == {"run_0"}
    with pytest.raises(ValueError, match="not read by residual"):
        compare(found.runs, "residual")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({}, "network")


def test_levels_that_do_not_overlap_are_not_compared():
    rng = np.random.default_rng(0)
    runs = {}
    for name, times in (("early", np.array([0.9, 0.8])), ("late", np.array([0.3, 0.1]))):
        real = times + 0.01 * rng.standard_normal((50, 2))
        runs[name] = run(0.0, rng, common=rng.standard_normal((50, 1)), real=real, times=times)
    with pytest.raises(ValueError, match="levels that overlap"):
        compare(runs, "network")


def test_a_comparison_comes_back_from_its_folder(tmp_path):
    found = family([0.02, 0.005, 0.0052])
    places = {name: tmp_path / "runs" / name for name in found.runs}
    for name, each in found.runs.items():
        each.save(places[name])
    found.save(tmp_path / "out", places)
    back = Comparison.load(tmp_path / "out")
    pd.testing.assert_frame_equal(back.table, found.table, check_dtype=False)
    pd.testing.assert_frame_equal(back.pairs, found.pairs, check_dtype=False)
    assert (back.span, back.best("rms"), list(back.runs)) == (found.span, found.best("rms"), list(found.runs))


def test_a_run_cut_by_hand_is_no_longer_a_run(tmp_path):
    each = next(iter(family([0.02, 0.005]).runs.values()))
    each.save(tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run" / "shift.parquet")
    rows[rows.row < 30].to_parquet(tmp_path / "run" / "shift.parquet")
    with pytest.raises(ReadingError, match=r"holds 30 samples, its run\.json says"):
        Run.load(tmp_path / "run")


def test_a_run_whose_costly_estimators_read_fewer_samples_comes_back(tmp_path, tiny_file):
    limits = {"constant-pixel": None, "residual": 5, "fokker-planck": 32}
    protocol = Protocol("em:3", samples=8, estimators=limits, points=1, calibration_rows=10)
    found = ns.run(ns.load(tiny_file), protocol, ns.data.reference()[:40])
    found.save(tmp_path / "run")
    back = Run.load(tmp_path / "run")
    assert [len(report.sampled) for report in back.reports.values()] == [8, 5, 8]
    pd.testing.assert_frame_equal(back.table(), found.table(), check_dtype=False)


def test_tables_for_a_paper():
    found = family([0.02, 0.005, 0.0052])
    tex = compare_tables.latex_table(found)
    assert tex.count(r"\textbf") == 2
    assert r"toy\_a" in tex
    assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert tex.count("{") == tex.count("}")
    lines = compare_tables.markdown_table(found).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory, tiny_file):
    """A grid of two samplers on a small network, with features."""
    folder, checkpoint = tmp_path_factory.mktemp("grid"), ns.load(tiny_file)
    settings = {"samples": 40, "estimators": {"constant-pixel": None}, "points": 3, "calibration_rows": 60}
    cells = [
        Cell(name, checkpoint, Protocol(ns.solver(solver), **settings), ns.data.reference()[:200])
        for name, solver in (("few", "em:4"), ("more", "em:8"))
    ]
    return folder, cells, run_grid(cells, folder, extractor=ClassifierFeatures())


def test_a_grid_goes_on_where_it_stopped(real_runs):
    folder, cells, first = real_runs
    assert [run.manifest["nfe"] for run in first.values()] == [4, 8]
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    left = Shards(folder / "few", fingerprint(*_parts(cells[0]), ClassifierFeatures())).root
    left.mkdir()
    (left / "00000000.npz").write_bytes(b"of a process that was killed when its run stood")
    second = run_grid(cells, folder, extractor=ClassifierFeatures())
    assert not left.exists()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == made
    np.testing.assert_allclose(second["few"].features.values, first["few"].features.values, atol=1e-4)
    # Against other real images it is another run.
    other = dataclasses.replace(cells[0], data=ns.data.reference()[200:400])
    moved = run_grid([other], folder.parent / "other-data", extractor=ClassifierFeatures())["few"]
    assert moved.manifest["data"] != first["few"].manifest["data"]
    changed = run_grid([dataclasses.replace(other)], folder.parent / "other-data")["few"]
    assert changed.manifest["data"] == moved.manifest["data"]
    back = run_grid([cells[0]], folder.parent / "other-data")["few"]
    assert back.manifest["data"] == first["few"].manifest["data"]
    with pytest.raises(ValueError, match="same name"):
        run_grid([cells[0], cells[0]], folder)


def _parts(cell):
    return cell.checkpoint, cell.protocol, cell.data


def test_every_figure_is_drawn(real_runs, tmp_path):
    from matplotlib.axes import Axes

    extractor = ClassifierFeatures()
    real = load_reference(ns.data.ASSETS / "fashion-statistics.npz", extractor)
    found = compare(real_runs[2], "constant-pixel", real, small=True)
    assert found.distance() == "FD-fashion"
    assert set(found.pairs.quantity) == {"mean δ²", "FD-fashion"}
    alone = evaluate(real_runs[2]["few"].features, real, allow_small=True).set_index("metric").loc["FD-fashion"]
    shown = found.table.set_index("run").loc["few", ["FD-fashion", "FD-fashion low", "FD-fashion high"]]
    np.testing.assert_allclose(shown.to_list(), alone[["value", "low", "high"]].to_list())
    change = paired_change(*(real_runs[2][name].features for name in ("few", "more")), real)
    tested = found.pairs.set_index("quantity").loc["FD-fashion", ["difference", "low", "high"]]
    np.testing.assert_allclose(tested.to_list(), [change.value, change.low, change.high])
    plots = (figures.plot_shift_nfe, figures.plot_distance_nfe, figures.plot_pareto, figures.plot_heat)
    for draw in (*plots, figures.plot_ridge, figures.plot_phase):
        assert isinstance(draw(found), Axes)
    files = figures.save_comparison(found, tmp_path, paper="cvpr")
    assert len(files) == 12
    assert {path.name for path in tmp_path.iterdir()} == {"table.tex", "table.md", "figures"}


def test_figures_have_the_width_of_the_column():
    import matplotlib.pyplot as plt

    for paper, (width, points) in PAPERS.items():
        with style(paper):
            assert plt.rcParams["figure.figsize"][0] == width
            assert plt.rcParams["font.size"] == points
    with pytest.raises(ValueError, match="no preset"):
        style("nature")


def test_compare_from_the_shell(real_runs, tmp_path):
    folder = real_runs[0]
    words = ["compare", str(folder / "few"), str(folder / "more"), "--out", str(tmp_path / "a"), "--json", "--small"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert [row["run"] for row in json.loads(result.output)["runs"]] == ["few", "more"]
    assert pd.read_csv(tmp_path / "a" / "table.csv").run.tolist() == ["few", "more"]
    written = {path.name for path in (tmp_path / "a").iterdir()}
    assert written >= {"report.html", "comparison.json", "table.csv", "table.tex", "table.md", "pairs.csv", "figures"}
    grid = tmp_path / "grid.yaml"
    grid.write_text("sampler: ['euler:3', 'euler:4']\nguidance: nag=0.5\nsamples: 8\nestimator: constant-pixel\n")
    result = CliRunner().invoke(main, ["compare", "--config", str(grid), "--out", str(tmp_path / "b"), "--no-progress"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "b").glob("*/run.json"))) == 2  # a lone value is a list of one
    assert (tmp_path / "b" / "fashion-sit-euler-3-nag-0.5").is_dir()
    few = ["compare", str(folder / "few"), "--out", str(tmp_path / "c")]
    assert CliRunner().invoke(main, [*few, "--small"]).exit_code == 0  # one run has no pairs, and is its own best
    for bad, says in (
        (["compare"], "--sampler"),
        (few, "40 samples under 128 features"),
        (["compare", str(tmp_path)], "shift.parquet"),
    ):
        result = CliRunner().invoke(main, bad)
        assert result.exit_code in (1, 2)
        assert says in result.output


def test_a_grid_has_a_cell_for_every_combination():
    like = Protocol("heun:2", samples=8, points=2, batch=8)
    guidances = {"none": None, "nag=0.5": ns.noise_awareness(0.5)}
    cells = grid([ns.load()], ["euler:3", "em:4"], guidances, None, like, estimators={"residual": None})
    assert [cell.name.removeprefix("fashion-sit-") for cell in cells] == [
        *("euler-3", "euler-3-nag-0.5", "em-4", "em-4-nag-0.5")
    ]
    assert [cell.protocol.guidance is None for cell in cells] == [True, False] * 2
    assert [cell.protocol.solver.name for cell in cells] == ["euler:3"] * 2 + ["em:4"] * 2
    assert {cell.protocol.samples for cell in cells} == {8}


def test_an_rms_that_may_be_nothing_is_a_bound():
    found = family([0.02, 0.0])
    cells = compare_tables.paper_table(found)["rms δ"]
    assert cells.iloc[0].startswith("0.0")
    assert found.table["rms low"].iloc[1] == 0
    assert cells.iloc[1] == f"< {found.table['rms high'].iloc[1]:.4f}"


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2", "@SUM(A1)", "plain", "'quoted", "\t=x"])
def test_a_name_is_no_formula_in_a_spreadsheet_and_comes_back(name):
    cell = as_text(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t"))
    assert from_text(cell) == name


def at_levels(*grids):
    rng, runs = np.random.default_rng(0), {}
    for k, times in enumerate(map(np.array, grids)):
        real = times + 0.01 * rng.standard_normal((80, len(times)))
        common = rng.standard_normal((80, len(times)))
        runs[f"run_{k}"] = run(0.01, rng, common=common, real=real, times=times)
    return compare(runs, "network")


def test_readings_are_compared_at_a_level_that_all_runs_share():
    found = at_levels([0.6, 0.3, 0.1], [0.6, 0.3, 0.05])
    assert found.shared.tolist() == [0.6, 0.3]
    shown = figures.plot_ridge(found)
    assert {text.get_text() for text in shown.texts} == {"t = 0.30"}  # not one at .10 beside another at .05
    apart = at_levels([0.6, 0.3, 0.1], [0.55, 0.25, 0.05])
    with pytest.raises(ValueError, match="no common level"):
        figures.plot_ridge(apart)
    assert "ridge" in [name for name, _, _ in figures.figures(found)]
    assert "ridge" not in [name for name, _, _ in figures.figures(apart)]
    assert "The runs share 0 of up to 3 levels" in answer(apart)[0]
    assert "levels;" not in answer(family([0.02, 0.01]))[0]


def test_the_phase_plots_label_is_not_cut():
    with style(None):
        shown = figures.plot_phase(at_levels([0.6, 0.3, 0.1], [0.6, 0.3, 0.05]))
        shown.figure.draw_without_rendering()
    box = shown.yaxis.label.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= shown.figure.bbox.y1


def test_bands_and_the_common_span_in_the_phase_plot():
    found = at_levels([0.6, 0.3, 0.1], [0.5, 0.3, 0.05])
    shown = figures.plot_phase(found)
    bands = [band for band in shown.collections if band.get_paths()]
    assert len(bands) == 2
    for line in shown.get_lines()[1:]:
        assert found.span[0] <= line.get_xdata().min()
        assert line.get_xdata().max() <= found.span[1]


def test_every_run_has_its_p_on_the_page():
    found = family([0.02, 0.0])
    assert found.table.run_p[0] < 0.01 < found.table.run_p[1]
    assert "any shift, p" in [heading for heading, _ in compared("a", "a", found).tables[0].headings]


def test_no_size_of_a_table_is_a_zero_without_a_bound(tmp_path):
    """Content δ, both shares and σ end where nothing is seen: what they are below, in every table and on the page."""
    found = family([0.0, 0.02])
    rng = np.random.default_rng(3)
    for name, each in found.runs.items():
        report = each.reports["network"]
        again = readings(report.sampled.t + 0.01 * rng.standard_normal(report.sampled.t.shape))
        report = dataclasses.replace(report, content=again)
        split = shares(report, None, None).assign(solver=1e-4, solver_low=-0.002, solver_high=0.002)
        split = split.assign(network=-1e-4, network_low=-0.003, network_high=0.003)
        left = {
            "space": "pictures",
            "reader": "wavelet",
            "sigma": 0.0,
            "low": 0.0,
            "high": 0.0 if name == "run_0" else 0.01,
        }
        found.runs[name] = dataclasses.replace(
            each,
            reports={"network": report},
            controls=Controls((), shares=split),
            residual_noise=pd.DataFrame([left | {"floor": 0.02, "verdict": "none seen", "psnr": np.inf}]),
        )
    found = compare(found.runs, "network")
    paper = compare_tables.paper_table(found)
    assert all(text.startswith("< 0.0") and float(text[2:]) > 0 for text in paper["content δ"])
    assert all(
        text == bound for name, bound in (("solver", "< 0.0020"), ("network", "< 0.0030")) for text in paper[name]
    )
    assert all("[" in text for text in paper["last δ"])
    cells = [[cell.text for cell in row] for row in compared("a", "a", found).tables[0].rows]
    assert not any(text.startswith("0.0000") for row in cells for text in row)
    assert "smoother" in cells[0]
    assert "< 0.0100" in cells[1]
    found.save(tmp_path / "kept", {name: tmp_path / name for name in found.runs})
    kept = pd.read_csv(tmp_path / "kept" / "table.csv")
    assert {"content low", "content high", "solver high", "network high", "terminal low"} <= {*kept}


def test_a_table_of_an_older_version_has_no_ends():
    found = family([0.0, 0.02])
    older = [c for c in found.table if c.split(" ")[0] in ("terminal", "content", "solver", "network") and " " in c]
    former = dataclasses.replace(found, table=found.table.drop(columns=older))
    assert "[" not in "".join(compare_tables.paper_table(former)["last δ"])
    assert compared("a", "a", former).tables


def test_a_least_shift_that_may_be_nothing_is_a_bound():
    found = family([0.0, 0.02])
    assert "rms δ below 0.00" in answer(found)[0]
    assert "rms δ 0.0000" not in answer(found)[0]
    section = compared("a", "a", found)
    assert section.row["largest"].startswith("least rms δ < 0.00")
    cells = [cell.text for row in section.tables[0].rows for cell in row]
    assert any(text.startswith("< 0.00") for text in cells)
    assert not any(text.startswith("0.0000") for text in cells)
