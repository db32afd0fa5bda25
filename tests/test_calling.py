"""The user's own code, failing in every way: one line says whose it is, and where."""

import os
import re

import numpy as np
import pytest
import torch

import noiseshift as ns

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ANSWERS = {
    "nothing": (lambda x, t, cond: None, "returned a NoneType"),
    "a pair": (lambda x, t, cond: (x, t), "returned a tuple"),
    "an array": (lambda x, t, cond: x.numpy(), "returned a ndarray"),
    "a number": (lambda x, t, cond: 1.0, "returned a float"),
    "one row": (lambda x, t, cond: x[:1], r"shape \(1, 1, 8, 8\)"),
    "another size": (lambda x, t, cond: x[..., :4], r"shape \(3, 1, 8, 4\)"),
    "a row less": (lambda x, t, cond: x.flatten(1), r"shape \(3, 64\)"),
    "whole numbers": (lambda x, t, cond: x.long(), "returned torch.int64"),
    "a failure": (lambda x, t, cond: x @ torch.zeros(3, 3), r"failed at test_calling.py:\d+: RuntimeError"),
    "an array's failure": (lambda x, t, cond: np.zeros(2) + np.zeros(3), r"failed at test_calling.py:\d+: ValueError"),
    "a missing argument": (lambda x: x, "failed: TypeError"),
    "an exit": (lambda x, t, cond: exit(3), r"it called sys.exit\(3\)"),
    "a bare assert": (lambda x, t, cond: (_ for _ in ()).throw(AssertionError()), "AssertionError"),
}


@pytest.mark.parametrize("case", list(ANSWERS))
def test_a_network_that_fails_or_answers_otherwise_is_one_line(case):
    function, says = ANSWERS[case]
    model = ns.wrap(function, ns.Linear())
    with pytest.raises(ValueError, match=says) as caught:
        model(X, torch.tensor(0.5))
    assert "\n" not in str(caught.value)
    assert "failed" not in str(caught.value) or "lambda" in str(caught.value), "whose code it is"
    whose = r"<lambda> \(test_calling\.py:\d+\) failed( at test_calling\.py:\d+)?: "
    asked = r"the model, which predicts velocity, returned .+: return (one (tensor )?of shape \(3, 1, 8, 8\)|floating-point ones)"
    assert re.match(whose if "failed" in says or "failed" in str(caught.value) else asked, str(caught.value))


def test_an_interruption_and_a_full_memory_pass():
    # A single row that does not fit is a full memory, whatever torch calls it.
    passed = {KeyboardInterrupt: KeyboardInterrupt, MemoryError: MemoryError, torch.OutOfMemoryError: MemoryError}
    for error, expected in passed.items():

        def raises(x, t, cond, error=error):
            raise error

        with pytest.raises(expected):
            ns.wrap(raises, ns.Linear())(X, torch.tensor(0.5))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import sys\nsys.exit('stop')", "importing theirs failed at theirs.py:2: it called sys.exit(stop)"),
        ("1 / 0", "importing theirs failed at theirs.py:1: ZeroDivisionError: division by zero"),
        ("def make(:", "importing theirs failed"),
        ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
        ("def make():\n    exit()", "theirs:make failed at theirs.py:2"),
        ("def make():\n    return None", "it is a NoneType"),
        ("make = 3", "theirs:make failed: TypeError: 'int' object is not callable"),
        ("def make(x):\n    return x", "theirs:make failed: TypeError"),
        ("def make():\n    return (lambda x, t: x), {'shape': [1, -8, 8]}", "shape must be"),
        ("def make():\n    return (lambda x, t: x), {'shape': 8}", "shape must be"),
        ("def make():\n    return (lambda x, t: x), {1: 2}", "unknown key 1"),
    ],
)
def test_code_that_makes_no_model_is_one_line(body, says, tmp_path, monkeypatch):
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (tmp_path / "theirs.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ns.CheckpointError) as caught:
        ns.load("theirs:make")
    assert says in str(caught.value)
    assert "theirs" in str(caught.value), "whose code it is"
    assert "\n" not in str(caught.value)


def test_what_a_checkpoints_function_answers_is_checked(tmp_path, monkeypatch):
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (tmp_path / "theirs.py").write_text("def make():\n    return (lambda x, t: x[:1]), {'shape': [1, 8, 8]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = ns.load("theirs:make").model
    with pytest.raises(ValueError, match=r"returned a tensor of shape \(1, 1, 8, 8\)"):
        model(X, torch.tensor(0.5))


class Broken(torch.nn.Module):
    """As a network of a library whose settings cannot be."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, *batch):
        raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), RuntimeError("shapes\ndiffer"), KeyError("x")])
def test_a_network_whose_settings_cannot_be_is_one_line(error):
    from noiseshift.networks.model import NetworkModel

    trained = {"classes": 0, "class_dropout": False, "noise_dropout": False}
    model = NetworkModel(Broken(error), ns.Linear(), "velocity", lambda t: t, **trained)
    with pytest.raises(ValueError, match="the network failed at") as caught:
        model(X, torch.tensor(0.5))
    assert "do not fit" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_that_makes_a_model_changes_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "changing.py").write_text(
        "import os, torch\n"
        "def make():\n"
        "    os.chdir('/')\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    torch.set_grad_enabled(False)\n"
        "    print('made')\n"
        "    return (lambda x, t: print('called') or x), {'shape': [1, 8, 8]}\n"
    )
    model = ns.load("changing:make").model
    model(X, torch.tensor(0.5))
    assert os.getcwd() == str(tmp_path)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.split() == ["made", "called"]


def test_code_that_raises_what_is_no_exception_is_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raising.py").write_text("class Odd(BaseException): ...\ndef make():\n    raise Odd('x')\n")
    with pytest.raises(ns.CheckpointError, match=r"raising:make failed at raising.py:3: Odd: x"):
        ns.load("raising:make")
