"""`--out` of every command that writes: what is not ours is refused before any work, in a line, and stays as it is."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from noiseshift.cli import main
from PIL import Image
from safetensors.torch import save_file

import noiseshift as ns

TINY = ["--samples", "8", "--sampler", "euler:3", "--estimator", "constant-pixel", "--points", "2", "--no-progress"]
FOLDERS = {
    "measure": ["measure"],
    "approx": ["approx"],
    "correct": ["correct"],
    "compare": ["compare", "--sampler", "euler:3"],
    "train": ["train"],
    "finetune": ["finetune"],
    "audit": ["audit", "diffusers/DDIMScheduler:10"],
}
FILES = {
    "sample": ["sample"],
    "train-estimator": ["train-estimator", "--data", "pictures"],
    "report": ["report", "pictures"],
}


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a user's files, pictures to read, and other runs."""
    place = tmp_path / "work"
    (place / "project").mkdir(parents=True)
    (place / "project" / "thesis.tex").write_text("years of work")
    (place / "mine.txt").write_text("mine")
    (place / "mine.png").write_bytes(b"mine")
    Image.new("L", (8, 8)).save(place / "photo.png")
    np.savez(place / "data.npz", x=np.zeros(3))
    save_file({"x": ns.data.reference().pixels[:1]}, place / "weights.safetensors")
    (place / "runs" / "other").mkdir(parents=True)
    (place / "runs" / "other" / "run.json").write_text("{}")
    (place / "pictures").mkdir()
    Image.new("L", (28, 28)).save(place / "pictures" / "0.png")
    (place / "link").symlink_to(place / "project")
    monkeypatch.chdir(place)
    return place


def files_under(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} | {
        p: None for p in folder.rglob("*") if p.is_dir()
    }


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize(
    "out",
    [
        ".",
        "..",
        "./",
        "project",
        "project/",
        "runs",
        "runs/other/..",
        "mine.txt",
        "mine.txt/run",
        "link",
        "~",
        "pictures",
    ],
)
def test_a_folder_that_is_not_ours_is_refused_before_any_work(command, out, here, tmp_path):
    before = files_under(tmp_path)
    shown = run(*FOLDERS[command], "--out", out)
    assert shown.exit_code == 2
    assert out.rstrip("/") in shown.output
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize(
    "out",
    [".", "..", "project", "mine.txt", "mine.png", "photo.png", "data.npz", "weights.safetensors", "link", "~/x.png"],
)
def test_a_file_that_is_not_ours_is_refused_before_any_work(command, out, here, tmp_path):
    before = files_under(tmp_path)
    shown = run(*FILES[command], "--out", out)
    assert shown.exit_code == 2
    assert files_under(tmp_path) == before


def test_samples_replace_samples_and_nothing_else(here):
    words = ["sample", "--samples", "2", "--sampler", "euler:3", "--no-progress"]
    for name in ("photo.png", "data.npz"):
        assert run(*words, "--out", name).exit_code == 2
        assert run(*words, "--out", name, "--overwrite").exit_code == 0
        first = Path(name).read_bytes()
        assert run(*words, "--out", name, "--seed", "1").exit_code == 0  # now it is ours
        assert Path(name).read_bytes() != first
    assert np.load("data.npz").files == ["arr_0", "arr_1"]


def test_default_names_tell_runs_apart_and_the_same_command_has_the_same(here):
    few = ns.data.reference()[:64]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    variants = [[], ["--seed", "1", "--sampler", "euler:4", "--guidance", "nag=0.5"]]
    names = []
    for extra in variants:
        shown = run("measure", *TINY, "--data", "few.npz", *extra)
        assert shown.exit_code == 0, shown.output
        names.append(shown.output.split("written: ")[1].split("/ (")[0])
    assert len(set(names)) == len(variants)
    assert "seed-1" in names[1]
    assert "euler-4" in names[1]
    assert "nag=0.5" in names[1]
    (Path(names[0]) / "notes.txt").write_text("mine")
    refused = run("measure", *TINY, "--data", "few.npz")  # of the same name, in whose folder something else is now
    assert refused.exit_code == 2
    assert "notes.txt" in refused.output
    assert (Path(names[0]) / "notes.txt").read_text() == "mine"
    assert {f"runs/{p.name}" for p in Path("runs").iterdir()} == {*names, "runs/other"}


def test_a_page_replaces_a_page_and_nothing_else(here):
    few = ns.data.reference()[:64]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    assert run("measure", *TINY, "--data", "few.npz", "--out", "run").exit_code == 0
    assert run("report", "run").exit_code == 0
    Path("mine.html").write_text("<html>mine</html>")
    assert run("report", "run", "--out", "mine.html").exit_code == 2
    assert Path("mine.html").read_text() == "<html>mine</html>"
    assert run("report", "run", "--out", "new.html").exit_code == 0
    assert run("report", "run", "--out", "new.html").exit_code == 0
    (Path("run") / "report.html").unlink()
    assert run("report", "run").exit_code == 0
    assert run("measure", *TINY, "--data", "few.npz", "--out", "run").exit_code == 0
    assert run("correct", "--out", "run").exit_code == 2
