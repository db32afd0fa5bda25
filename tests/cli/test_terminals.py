"""stdout and stderr of any terminal: letters it lacks are spelled, and nothing fails after a measurement."""

import io
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from noiseshift.cli import main
from noiseshift.cli.streams import guarded, spelled

import noiseshift as ns

SCRIPT = "from noiseshift.cli import main; main()"
LINE = (
    "measure --samples 4 --sampler euler:2 --points 1 --estimator constant-pixel --data few.npz --no-progress --out run"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ns.data.reference()[:24]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    return tmp_path


def written(words, encoding, monkeypatch):
    """What a command writes to an stdout of this encoding, letter by letter strict."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    code = main.main(words.split(), standalone_mode=False)
    sys.stdout.flush()
    return code, raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "koi8-r", "utf-16"])
def test_letters_that_an_encoding_lacks_are_spelled(encoding, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    code, text = written("audit diffusers/DDIMScheduler:5", encoding, monkeypatch)
    assert code in (0, 1)
    plain = CliRunner().invoke(main, ["audit", "diffusers/DDIMScheduler:5"]).stdout
    assert [line.split() for line in text.splitlines()] == [
        line.split() for line in spelled(plain, encoding).splitlines()
    ]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_every_letter_of_ours_has_a_spelling(encoding):
    """No code of a letter (\\u03b4) is shown where a word could be."""
    root = Path(ns.__file__).parents[1]
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("cli", "analysis", "noiseshift")
        for path in (root / folder).rglob("*.py")
    )
    for letter in sorted({letter for letter in source if ord(letter) > 127}):
        words = spelled(letter, encoding)
        words.encode(encoding)
        assert "\\" not in words, f"{letter} ({ord(letter):#x}) is shown as {words}"


def test_a_measurement_is_saved_whatever_is_behind_its_output(here):
    """A C locale, a notebook's backend of figures, 40 columns, and a reader that goes after the first line, all at once."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "40", "OMP_NUM_THREADS": "1"}
    env |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *LINE.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as job:
        first = job.stdout.readline()
        job.stdout.close()
        said = job.stderr.read().decode("ascii")
        code = job.wait()
    assert first.decode("ascii").startswith("fashion-sit")
    assert code == 0, said
    assert "labels 0 ... 9" in said
    assert "left out" not in said
    assert "Traceback" not in said
    assert {path.suffix for path in (here / "run" / "figures").iterdir()} == {".png", ".pdf"}
    assert (here / "run" / "report.html").exists()


def test_no_stdout_at_all_is_no_fault():
    """As under a daemon: the descriptors are closed before Python starts."""
    closed = f"exec >&- 2>&- <&-; exec {sys.executable} -c '{SCRIPT}' --help"
    assert subprocess.run(["sh", "-c", closed], check=False).returncode == 0


TRAINED = "--no-progress --batch 8 --steps 2 --out new"
RESULTS = {
    "sample": "sample --samples 2 --sampler euler:2 --no-progress --out new.npz",
    "train": f"train few.npz --width 16 --depth 1 --heads 2 --patch 14 {TRAINED}",
    "finetune": f"finetune tiny/model.safetensors --data few.npz {TRAINED}",
    "train-estimator": f"train-estimator tiny/model.safetensors --data few.npz {TRAINED}.safetensors",
    "compare": "compare run --no-progress --out new",
    "report": "report run --out new.html",
    "audit": "audit diffusers/DDIMScheduler:5 --tolerance 9999 --accept last-level --out new",
}
"""Every command that leaves something, but those that measure: `LINE` stands for them."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    os.chdir(folder)
    few = ns.data.reference()[:24]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    for words in (LINE, RESULTS["train"].replace("new", "tiny")):
        assert main.main(words.split(), standalone_mode=False) == 0
    return folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize("command", RESULTS)
def test_what_was_written_is_no_failure_because_stdout_takes_nothing(command, results, monkeypatch, capfd):
    monkeypatch.chdir(results)
    for path in results.glob("*new*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main.main(RESULTS[command].split(), standalone_mode=False)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "error:" not in said
    assert "standard output takes nothing (No space left on device); written: new" in said
    assert code == 0
    assert list(results.glob("new*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize("words", [LINE.replace("--out run", "--out new"), RESULTS["audit"]])
def test_json_that_does_not_come_is_said_with_the_place_of_what_was_saved(words, results, monkeypatch, capfd):
    monkeypatch.chdir(results)
    for path in results.glob("*new*"):
        shutil.rmtree(path)
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main.main([*words.split(), "--json"], standalone_mode=False)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("error: standard output: No space left on device; everything is saved in new: ")
    assert code == 1
    assert (results / "new" / "noiseshift.json").exists()


@pytest.mark.skipif(not hasattr(os, "set_blocking"), reason="pipes that do not wait are not Windows'")
def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_every_letter(monkeypatch):
    """As behind a server that set its pipes so: more than a pipe holds, before the first of it is read."""
    text = "".join(f"{number:07d}\n" for number in range(30_000))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as slow, open(writer, "w", encoding="ascii") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)

        def write():
            with guarded():
                click.echo(text, nl=False)
            pipe.close()

        with ThreadPoolExecutor(1) as other:
            done = other.submit(write)
            time.sleep(0.2)
            assert slow.read().decode() == text
            done.result()


def test_a_pipe_that_does_not_wait_is_one_again_afterwards(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb"), open(writer, "w", encoding="ascii") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with guarded():
            assert os.get_blocking(writer)
        assert not os.get_blocking(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize(
    "words", ["--help", "--version", "measure --help", "info fashion-sit", "info fashion-sit --json"]
)
def test_what_is_asked_for_on_stdout_and_does_not_fit_is_one_line(words, monkeypatch, capfd):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main.main(words.split(), standalone_mode=False)
    said = capfd.readouterr().err
    assert code == 1
    assert said == "error: standard output: No space left on device: free some space, or write to another disk\n"
