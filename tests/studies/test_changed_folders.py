"""Files of run folders that were changed so that they can still be read: refused by whatever reads the folder, in one line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.report import read_folder
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints.saving import save
from noiseshift.evaluation import Features
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.compare import Comparison
from noiseshift.studies.folders import Run
from noiseshift.writing import adopt
from noiseshift.writing.digests import require_unchanged
from noiseshift.writing.marks import MARK, read_mark
from tests.reports import report_of

CHANGED = "was changed after noiseshift wrote it: put the original back, or "


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A measurement and a comparison of it."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    network = Transformer(TransformerConfig(28, 1, 14, 16, 1, 2, classes=10))
    save(folder / "tiny", network.state_dict(), ns.Card.from_dict({"family": "sit", "heads": 2}))
    protocol = ns.Protocol("euler:4", samples=16, points=2, estimators="constant-pixel", controls=True)
    run = ns.run(ns.load(folder / "tiny.safetensors"), protocol, ns.data.reference()[:64])
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


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_of_a_run_is_refused_by_all_who_read_it(name, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    run = tmp_path / "here" / "run"
    CHANGES[name](run / name)
    for read in (Run.load, read_folder, lambda path: Comparison.load(path.parent / "compare")):
        with pytest.raises(ValueError, match=CHANGED) as said:
            read(run)
        assert "\n" not in str(said.value)
        assert name in str(said.value)
    out = tmp_path / "new.html"
    for words in (["report", run, "--out", out], ["compare", run, "--no-progress", "--out", tmp_path / "new"]):
        done = CliRunner().invoke(main, list(map(str, words)))
        assert done.exit_code == 1
        assert done.stderr.count("error:") == 1, done.stderr
    assert not out.exists()


@pytest.mark.parametrize("name", ["comparison.json", "table.csv", "pairs.csv"])
def test_a_changed_file_of_a_comparison_is_refused(name, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    only_spaces(tmp_path / "here" / "compare" / name)
    with pytest.raises(ValueError, match=CHANGED + "run `noiseshift compare` again"):
        Comparison.load(tmp_path / "here" / "compare")


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
    if isinstance(digests, dict) and "shift.parquet" in digests:
        with pytest.raises(ValueError, match=CHANGED):
            require_unchanged(place, "measure it again")
    else:
        ShiftReport.load(place)


def test_features_and_reports_alone_are_looked_at_too(tmp_path):
    place = tmp_path / "run"
    report_of(np.array([0.5]), np.full((9, 1), 0.5), np.full((9, 1), 0.5)).save(place)
    only_spaces(place / "report.json")
    with pytest.raises(ValueError, match=CHANGED):
        ShiftReport.load(place)
    features = Features("two", np.random.default_rng(0).normal(size=(9, 2)))
    features.save(tmp_path / "alone.npz")
    Features.load(tmp_path / "alone.npz")
    (place / MARK).write_text(json.dumps({"kind": "measure", "files": ["f.npz"], "sha256": {"f.npz": "0" * 64}}))
    features.save(place / "f.npz")
    with pytest.raises(ValueError, match=CHANGED):
        Features.load(place / "f.npz")
