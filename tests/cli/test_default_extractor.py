"""Which extractor a command takes where none is named."""

import importlib.machinery
import sys
import types

import numpy as np
import torch
from click.testing import CliRunner
from noiseshift.cli import inputs, main

from noiseshift.data.images import Images


def colours(channels=3, dtype=torch.uint8, unit=True):
    return Images(torch.zeros(2, channels, 8, 8, dtype=dtype), None, (), "", unit)


def test_pictures_in_colour_have_an_extractor_of_their_own_which_is_said(monkeypatch, capsys):
    for package in inputs.EFFNET:
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        sys.modules[package].__spec__ = importlib.machinery.ModuleSpec(package, None)
    assert inputs.extractor_for(colours(), None) == "effnet-lite0"
    assert "effnet-lite0" in capsys.readouterr().err
    assert inputs.extractor_for(colours(), "clip") == "clip"
    assert inputs.extractor_for(colours(1), None) == "fashion"
    assert inputs.extractor_for(colours(3, torch.float32, unit=False), None) == "fashion", "states are no pictures"
    assert not capsys.readouterr().err


def test_without_its_packages_pictures_in_colour_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, inputs.EFFNET[0], None)
    np.savez(tmp_path / "samples.npz", np.zeros((4, 8, 8, 3), np.uint8))
    found = CliRunner().invoke(main, ["evaluate", str(tmp_path / "samples.npz"), "--no-progress"])
    assert found.exit_code == 2
    assert "pip install 'noiseshift[effnet]'" in found.output
