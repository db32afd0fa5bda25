"""Whatever a command fails of is one line that names the remedy, with the right exit code; and so is its end by a signal."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import urllib.error
from functools import partial

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import failures, main

import noiseshift as ns
from noiseshift.diffusion.schedules import Linear
from noiseshift.training.level_estimator import EstimatorTraining, train_estimator
from noiseshift.training.states import write_tensors
from noiseshift.writing import claimed_file, whole_file


def shown(error_maker):
    """The line that a failure which `error_maker` raises is shown as."""
    try:
        error_maker()
    except BaseException as error:
        return failures.in_one_line(error)
    raise AssertionError("nothing was raised")


def raised(error):
    def maker():
        raise error

    return shown(maker)


def one_line(words):
    assert words
    assert words == " ".join(words.split())
    assert words.isprintable()
    return words


@pytest.mark.parametrize("number", sorted(failures.REMEDIES))
def test_every_error_of_the_system_has_a_remedy(number):
    words = one_line(raised(OSError(number, os.strerror(number), "some/file\nof mine\x1b[31m")))
    assert "some/file of mine" in words
    assert "\x1b" not in words
    assert words.endswith(failures.REMEDIES[number])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (urllib.error.URLError("name resolution failed"), failures.NO_CONNECTION),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), failures.NO_CONNECTION),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), failures.NO_CONNECTION),
        (MemoryError(), failures.MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), failures.ACCELERATOR),
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors"), "--device cpu"),
        (RuntimeError("write failed: No space left on device (os error 28)"), failures.REMEDIES[errno.ENOSPC]),
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), "noiseshift[fid]"),
        (KeyError("x"), "this is a bug of noiseshift"),
        (ValueError("operands could not be broadcast"), "this is a bug of noiseshift"),
        (AssertionError(), "this is a bug of noiseshift"),
        (RecursionError("maximum recursion depth exceeded"), "this is a bug of noiseshift"),
    ],
)
def test_a_failure_of_others_names_the_remedy(error, says):
    assert says in one_line(raised(error))


def test_a_memory_that_torch_cannot_get_is_a_full_one():
    assert failures.MEMORY in one_line(shown(lambda: torch.empty(1 << 58)))


def test_only_what_our_code_raises_on_purpose_is_shown_as_it_is():
    """numpy's and Python's own ValueErrors are no answers to a user, wherever they come from."""
    assert shown(lambda: ns.load("nowhere.pt")).startswith("no checkpoint at nowhere.pt")
    assert "bug of noiseshift" in shown(lambda: ns.data.to_float(torch.zeros(2)).reshape(5))
    assert "bug of noiseshift" in shown(lambda: np.zeros((2, 3)) @ np.zeros(2))
    by_python = {"int": int}
    exec("def f():\n    return int('x')", namespace := {"__name__": "noiseshift.some", **by_python})
    assert "bug of noiseshift" in shown(namespace["f"])
    exec("def f():\n    raise ValueError('give another one')", namespace)
    assert shown(namespace["f"]) == "give another one"


@pytest.fixture
def broken(monkeypatch):
    """A command that raises what it is given."""

    def command(error):
        def callback():
            raise error

        made = click.Command("info", callback=callback)
        monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: made)
        return CliRunner().invoke(main, ["info"])

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 1),
        (KeyError("x"), 1),
        (RuntimeError("x\ny"), 1),
        (SystemExit(7), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
        (failures.Stopped(signal.SIGTERM), 143),
        (click.UsageError("so\nnot"), 2),
        (click.BadParameter("\x1b[31mred"), 2),
    ],
)
def test_every_end_is_one_line_and_its_exit_code(broken, error, code):
    result = broken(error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "words", [["report", "RUN"], ["compare", "RUN"], ["measure", "--data", "RUN"], ["evaluate", "RUN"]]
)
def test_what_may_not_be_read_is_said_with_the_remedy(words, tmp_path, monkeypatch):
    """click asks for itself, and says it in words of its own."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and allowed(path, mode))
    (tmp_path / "closed").mkdir()
    done = CliRunner().invoke(main, [word.replace("RUN", str(tmp_path / "closed")) for word in words])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "closed" in done.stderr
    assert failures.REMEDIES[errno.EACCES] in done.stderr


def test_a_traceback_comes_when_it_is_asked_for(broken, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_DEBUG", "1")
    result = broken(KeyError("x"))
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def stopped(action, words=()):
    """The exit code of an action that a signal stops."""
    with failures.stoppable():
        return failures.guard(action, words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("step", "words", "left"),
    [
        (2, (), "nothing unfinished is kept, the same command begins anew"),
        (3, (), "the training is kept as of its last save, the same command goes on from there"),
        (
            3,
            ("--restart",),
            "the training is kept as of its last save, the same command without --restart goes on from there",
        ),
    ],
)
def test_a_training_promises_to_go_on_only_from_what_was_saved(number, step, words, left, tmp_path, capsys):
    def report(done, loss):
        if done == step:
            signal.raise_signal(number)

    images = ns.data.reference()[:8]
    config = EstimatorTraining(steps=6, batch=2, width=4)
    train = partial(train_estimator, images, Linear(), config, folder=tmp_path / "training", every=3, report=report)
    assert stopped(train, words) == 128 + number
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert capsys.readouterr().err == f"{word}: {left}\n"


def test_a_signal_while_torch_writes_is_no_error_of_torch(tmp_path, capsys):
    """Its writer makes a RuntimeError of whatever the file raises."""

    class Interrupted(io.BytesIO):
        def write(self, data):
            signal.raise_signal(signal.SIGTERM)
            return super().write(data)

    def action():
        write_tensors({"weight": torch.zeros(3)}, Interrupted())

    with failures.stoppable(), pytest.raises(KeyboardInterrupt):
        action()
    assert stopped(action) == 143
    assert capsys.readouterr().err.startswith("terminated: ")


@pytest.mark.parametrize(
    "error", [RuntimeError("unexpected pos"), ImportError("cut short"), SystemExit(1), click.UsageError("x")]
)
def test_a_signal_that_others_make_an_error_of_is_still_one(error, capsys):
    def action():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    assert stopped(action) == 143
    assert capsys.readouterr().err == "terminated: nothing unfinished is kept, the same command begins anew\n"


def test_a_second_signal_does_not_cut_short_what_is_put_in_order(tmp_path, monkeypatch):
    place = tmp_path / "a.txt"

    def action():
        with claimed_file(place, lambda path: True), whole_file(place) as fresh:
            fresh.write_text("half")
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)

    assert stopped(action) == 130
    assert not list(tmp_path.iterdir())


def test_a_signal_long_after_the_first_ends_what_hangs(monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE", 0.0)
    ended = []

    def action():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(0.01)
            signal.raise_signal(signal.SIGTERM)
            ended.append("not reached")

    assert stopped(action) == 143
    assert not ended


@pytest.mark.parametrize(("number", "code", "until"), [(signal.SIGINT, 130, "*"), (signal.SIGTERM, 143, "*.npz")])
def test_a_signal_ends_a_run_in_one_line(number, code, until, tmp_path):
    words = ["sample", "--samples", "4000", "--batch", "4", "--sampler", "euler:4"]
    job = subprocess.Popen(
        [sys.executable, "-m", "noiseshift", *words, "--no-progress"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(tmp_path.rglob(until)):
        time.sleep(0.1)
    job.send_signal(number)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == code
    promised = [line for line in errors.splitlines() if "goes on from there" in line]
    assert bool(promised) == bool(list(tmp_path.rglob("*.npz")))
    assert promised in ([], errors.splitlines()[-1:])
    assert promised or until == "*"
    assert "Traceback" not in errors
