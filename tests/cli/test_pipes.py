"""A pipe where a file is due is never waited for, whichever option names it."""

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from limits import limited
from noiseshift.cli import main
from option_lines import line, options

SUFFIXES = (".pt", ".safetensors", ".npz", ".yaml", ".png", ".zip", "-images-idx3-ubyte")


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
