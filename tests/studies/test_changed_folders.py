"""Files of run folders that were changed so that they can still be read: said first by whatever reads the folder."""

import fnmatch
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from noiseshift.analysis.report import read_folder
from noiseshift.cli import main
from reports import report_of

import noiseshift as ns
from noiseshift.evaluation import Features
from noiseshift.reading import ReadingError
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.compare import Comparison
from noiseshift.studies.folders import Run
from noiseshift.studies.grid import Cell, run_grid
from noiseshift.writing import ADDED, SENTENCE, added, adopt, changed
from noiseshift.writing.digests import OPTIONAL, digests
from noiseshift.writing.marks import MARK, read_mark, write_mark

CHANGED = "was changed after noiseshift wrote it"


def said(caplog):
    """The warnings about changed files."""
    return [record.getMessage() for record in caplog.records if CHANGED in record.getMessage()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_file):
    """A measurement and a comparison of it."""
    folder = tmp_path_factory.mktemp("whole")
    protocol = ns.Protocol("euler:4", samples=16, points=2, estimators="constant-pixel", controls=True)
    run = ns.run(ns.load(tiny_file), protocol, ns.data.reference()[:64])
    run.save(folder / "run")
    ns.compare({"run": run}, "constant-pixel").save(folder / "compare", {"run": folder / "run"})
    return folder


def other_schedule(path):
    about = json.loads(path.read_text())
    about["schedule"] = {"kind": "cosine"}
    path.write_text(json.dumps(about))


def other_seed(path):
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"seed": 1, "sampler": "heun:50"}, indent=2))


def only_spaces(path):
    path.write_text(path.read_text() + "\n")


def values_exchanged(path):
    rows = pd.read_parquet(path)
    mine = rows.states == "sampled"
    rows.loc[mine, "t_hat"] = rows.t_hat[mine].to_numpy()[::-1]
    rows.to_parquet(path)


def first_number_larger(path):
    rows = pd.read_parquet(path)
    column = rows.select_dtypes("float").columns[-1]
    rows.loc[rows.index[0], column] += 0.25
    rows.to_parquet(path)


def levels_altered(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{name: part[::-1] if name.endswith("grid") else part for name, part in arrays.items()})


def pictures_exchanged(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"images": arrays["images"][::-1]})


CHANGES = {
    "report.json": other_schedule,
    "run.json": other_seed,
    "summary.json": only_spaces,
    "shift.parquet": values_exchanged,
    "posteriors.npz": levels_altered,
    "samples.npz": pictures_exchanged,
    "residual-noise.parquet": first_number_larger,
    "controls/null.parquet": first_number_larger,
    "controls/level.parquet": first_number_larger,
    "controls/checks.json": only_spaces,
    "controls/shares.parquet": first_number_larger,
}


@pytest.fixture(params=CHANGES)
def altered(request, whole, tmp_path):
    """A run with one changed file, and its name."""
    shutil.copytree(whole, tmp_path / "here")
    run = tmp_path / "here" / "run"
    CHANGES[request.param](run / request.param)
    return run, request.param


def test_a_changed_file_of_a_run_is_said_where_the_run_is_read(altered, caplog):
    run, name = altered
    found = read_folder(run)
    assert found.changed == (name,)
    assert said(caplog) == [f"{run / name} {SENTENCE}"]
    first = found.preflight.failures[0]
    assert first.name == "files"
    assert f"{name} {CHANGED}" in first.sentence


@pytest.mark.parametrize("altered", ["shift.parquet", "controls/level.parquet"], indirect=True)
def test_a_changed_file_of_a_run_heads_whatever_is_made_of_it(altered, tmp_path):
    """By the check that its reader gives it, whichever file that is of."""
    run, name = altered
    out = tmp_path / "new.html"
    done = CliRunner().invoke(main, ["report", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"not use the numbers below. Files: {name} {CHANGED}" in " ".join(out.read_text().split())
    done = CliRunner().invoke(main, ["compare", str(run), "--no-progress", "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "FAIL" in done.output
    assert name in done.output


def plant_features(run):
    Features("another", np.random.default_rng(0).normal(size=(16, 3))).save(run / "features.npz")


def plant_parts(run):
    rows = pd.DataFrame({"estimator": ["residual"], "by": ["class"], "part": ["0"], "t": [0.5], "shift": [0.25]})
    rows.to_parquet(run / "parts.parquet")


def forget(*names):
    """Files that are there, and that the mark does not list: as if they had been put there."""

    def plant(run):
        about = json.loads((run / MARK).read_text())
        about["files"] = [name for name in about["files"] if name not in names]
        about["sha256"] = {name: digest for name, digest in about["sha256"].items() if name not in names}
        (run / MARK).write_text(json.dumps(about))

    return plant


PLANTED = {
    "features.npz": plant_features,
    "parts.parquet": plant_parts,
    "residual-noise.parquet": forget("residual-noise.parquet"),
    "controls/shares.parquet": forget("controls/shares.parquet"),
    "controls/checks.json": forget("controls/checks.json"),
    "controls/solver/report.json": forget("controls/solver/report.json"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_file_that_was_added_and_is_read_heads_whatever_is_made_of_the_run(name, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "here")
    run = tmp_path / "here" / "run"
    (run / "notes.csv").write_text("mine\n")
    (run / "controls" / "notes.txt").write_text("mine\n")
    assert Run.load(run).added == ()  # which nobody reads
    PLANTED[name](run)
    found = Run.load(run)
    assert found.added == (name,)
    assert found.preflight.failures[0].name == "files"
    assert [record.getMessage() for record in caplog.records if ADDED in record.getMessage()] == [
        f"{run / name} {ADDED}"
    ]


def test_pictures_that_were_added_to_a_correction_are_said(tmp_path, caplog):
    write_mark(tmp_path, "correct", ["run.json"])
    (tmp_path / "figures").mkdir()
    for each in ("samples.png", "mine.png"):
        (tmp_path / "figures" / each).write_bytes(b"x")
    assert added(tmp_path) == ["figures/samples.png"]
    adopt(tmp_path, [tmp_path / "figures" / "samples.png"])
    assert added(tmp_path) == []


def test_what_reads_a_correction_says_what_was_changed_and_added(tmp_path, caplog):
    for name in ("run.json", "methods.csv"):
        (tmp_path / name).write_text("{}")
    write_mark(tmp_path, "correct", ["run.json", "methods.csv"], digests(tmp_path, ["run.json", "methods.csv"]))
    assert read_folder(tmp_path) == tmp_path
    assert not caplog.records
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "samples.png").write_bytes(b"x")
    (tmp_path / "methods.csv").write_text("method\nmine\n")
    read_folder(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'methods.csv'} {SENTENCE}",
        f"{tmp_path / 'figures' / 'samples.png'} {ADDED}",
    ]


def test_whatever_a_run_may_hold_beside_what_it_must_is_looked_for(whole):
    """What `Run.load` and a page read where it is there: a new kind of it belongs into OPTIONAL."""
    needed = {"run.json", "summary.json", "report.json", "shift.parquet", "posteriors.npz", "samples.npz"}
    more = {name for name in read_mark(whole / "run").digests if name not in needed}
    assert more
    assert all(any(fnmatch.fnmatchcase(name, each) for each in OPTIONAL["measure"]) for name in more)


def test_a_cell_of_a_grid_whose_run_was_changed_is_measured_again(tiny_file, tmp_path, caplog):
    checkpoint = ns.load(tiny_file)
    protocol = ns.Protocol("euler:4", samples=16, points=2, estimators="constant-pixel")
    cells = [Cell("one", checkpoint, protocol, ns.data.reference()[:64])]
    table = run_grid(cells, tmp_path / "grid")["one"].table()
    values_exchanged(tmp_path / "grid" / "one" / "shift.parquet")
    again = run_grid(cells, tmp_path / "grid")["one"]
    assert again.changed == ()
    pd.testing.assert_frame_equal(again.table(), table)
    assert Run.load(tmp_path / "grid" / "one").changed == ()


@pytest.mark.parametrize("name", ["comparison.json", "table.csv", "pairs.csv"])
def test_a_changed_file_of_a_comparison_is_said(name, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "here")
    folder = tmp_path / "here" / "compare"
    only_spaces(folder / name)
    Comparison.load(folder)
    assert said(caplog) == [f"{folder / name} {SENTENCE}"]


@pytest.mark.parametrize("value", [[], ["a"], {}, 7, True, None])
@pytest.mark.parametrize(
    ("folder", "file", "word"),
    [
        ("run", "report.json", "baseline"),
        ("compare", "comparison.json", "estimator"),
        ("compare", "comparison.json", "command"),
    ],
)
def test_a_word_of_a_folder_that_is_none_is_said_of_the_folder(folder, file, word, value, whole, tmp_path):
    """And not by pandas, of a length that nobody gave."""
    shutil.copytree(whole, tmp_path / "here")
    path = tmp_path / "here" / folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {word: value}))
    with pytest.raises(ReadingError, match=f"here/{folder}"):
        (Run if folder == "run" else Comparison).load(path.parent)


def test_every_file_that_is_read_has_a_digest(whole):
    """What a run consists of, and all but its pages and figures."""
    for folder in (whole / "run", whole / "compare"):
        mark = read_mark(folder)
        assert set(mark.digests) == {name for name in mark.files if not name.startswith("figures/")} - {
            name for name in mark.files if name.endswith((".html", ".tex", ".md", ".png", ".pdf"))
        }


def test_folders_without_digests_and_pages_added_later_are_read(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    run = tmp_path / "run"
    (run / "report.html").write_text("a page, changed as often as one likes")
    adopt(run, [run / "report.html"])
    Run.load(run)
    assert read_mark(run).digests  # a page that is added leaves them
    about = json.loads((run / MARK).read_text())
    (run / MARK).write_text(json.dumps({name: about[name] for name in ("kind", "version", "files")}))
    other_seed(run / "run.json")
    assert Run.load(run).manifest["seed"] == 1


@pytest.mark.parametrize(
    "digests", [None, [], {"shift.parquet": 7}, {"/dev/zero": "0"}, {"/proc/kcore": "0"}, {"../x": "0"}]
)
def test_a_mark_with_odd_digests_reads_no_file_elsewhere(digests, tmp_path):
    (tmp_path / "x").write_text("x")
    place = tmp_path / "run"
    report_of(np.array([0.5]), np.full((9, 1), 0.5), np.full((9, 1), 0.5)).save(place)
    about = json.loads((place / MARK).read_text())
    files = [*about["files"], "/dev/zero", "/proc/kcore", "../x"]
    (place / MARK).write_text(json.dumps(about | {"files": files, "sha256": digests}))
    expected = ["shift.parquet"] if isinstance(digests, dict) and "shift.parquet" in digests else []
    assert changed(place) == expected


def test_features_and_reports_alone_are_looked_at_too(tmp_path, caplog):
    place = tmp_path / "run"
    report_of(np.array([0.5]), np.full((9, 1), 0.5), np.full((9, 1), 0.5)).save(place)
    only_spaces(place / "report.json")
    ShiftReport.load(place)
    assert said(caplog) == [f"{place / 'report.json'} {SENTENCE}"]
    caplog.clear()
    features = Features("two", np.random.default_rng(0).normal(size=(9, 2)))
    features.save(tmp_path / "alone.npz")
    Features.load(tmp_path / "alone.npz")
    assert said(caplog) == []
    (place / MARK).write_text(json.dumps({"kind": "measure", "files": ["f.npz"], "sha256": {"f.npz": "0" * 64}}))
    features.save(place / "f.npz")
    Features.load(place / "f.npz")
    assert said(caplog) == [f"{place / 'f.npz'} {SENTENCE}"]
