"""A pipe where a file is due is never waited for, whichever option names it."""

import os
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from limits import limited
from noiseshift.cli import COMMANDS, main

SUFFIXES = (".pt", ".safetensors", ".npz", ".yaml", ".png", ".zip", "-images-idx3-ubyte")
NUMBERS = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
NEEDED = {
    "evaluate": ["samples.npz"],
    "train": ["--out", "new"],
    "finetune": ["--out", "new"],
    "audit": ["diffusers/DDIMScheduler"],
    "measure": ["--samples", "4", "--sampler", "euler:2"],
    "correct": ["--samples", "4", "--sampler", "euler:2"],
}


def options():
    """Each option that takes words, with the first command that has it."""
    found = {}
    for command in ("measure", "correct", *COMMANDS):
        for param in main.get_command(click.Context(main), command).params:
            name = max(param.opts, key=len)
            if not isinstance(param.type, NUMBERS) and not getattr(param, "is_flag", False):
                found.setdefault(name, command)
    return {name: found[name] for name in sorted(found.keys() - {"--out", "--write-wrapper"})}


def line(option, command, value):
    needed = [] if option in NEEDED.get(command, ()) else NEEDED.get(command, [])
    if not option.startswith("-"):  # the argument itself, in place of any other
        return [command, value, *(needed if needed[:1] and needed[0].startswith("-") else [])]
    at = needed.index(option) if option in needed else len(needed)
    return [command, *needed[:at], *needed[at + 2 :], option, value]


@pytest.mark.parametrize("looked_at", [False, True], ids=["a pipe", "a pipe since it was looked at"])
@pytest.mark.parametrize(("option", "command"), options().items())
def test_no_option_waits_for_a_pipe(option, command, looked_at, tmp_path, monkeypatch):
    """In the second case it was an ordinary file when it was looked at."""
    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", images=np.zeros((4, 28, 28), np.uint8))
    if looked_at:
        monkeypatch.setattr("noiseshift.reading.boundary.regular", lambda path, *_: Path(path))
    for suffix in SUFFIXES:
        pipe = f"pipe{suffix}"
        os.mkfifo(pipe)
        for value in (pipe, f"lora={pipe}", f"{pipe}:kind")[: 3 if option in ("--variant", "--by") else 1]:
            with limited(30):
                found = CliRunner().invoke(main, line(option, command, value))
            assert found.exit_code in (1, 2), (value, found.output)
            assert found.stderr.strip().splitlines()[-1].startswith("error: "), value
