"""What a notebook shows of the library's objects: a line each, and never the arrays that they hold."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from reports import report_of

import noiseshift as ns
from noiseshift.shift.controls import Check, Controls
from noiseshift.shift.inference import RunTest
from noiseshift.shift.preflight import Preflight
from noiseshift.shift.summary import RunAnswer

CHECKS = (Check("denoises", False, "worse than the linear denoiser"), Check("classes", None, "none"))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: ns.load("fashion-sit"), ("fashion-sit", "sit", "(1, 28, 28)", "10 conditions")),
        (lambda: ns.data.reference(), ("2,000 pictures", "10 classes")),
        (lambda: ns.audit(EulerDiscreteScheduler(), 20), ("EulerDiscreteScheduler", "20", "terminal-snr")),
        (lambda: Controls(CHECKS, pd.DataFrame(np.zeros((50, 8)))), ("denoises FAILED", "classes note")),
        (lambda: Preflight(CHECKS, pd.DataFrame(np.zeros((50, 8)))), ("FAILED: denoises", "2 checks")),
        (
            lambda: RunAnswer(RunTest(9.0, 5e-4, 3.0), {"network": RunTest(9.0, 5e-4, 3.0)}, None, ("network",)),
            ("a shift", "p = 0.0005", "network"),
        ),
        (
            lambda: ns.Posterior(torch.linspace(0, 1, 300), torch.zeros(40, 300)),
            ("40 states", "300 times"),
        ),
    ],
    ids=["checkpoint", "images", "audit", "controls", "preflight", "answer", "posterior"],
)
def test_an_object_is_one_short_line(made, says):
    line = repr(made())
    assert "\n" not in line
    assert len(line) < 250
    assert all(word in line for word in says), line


def test_checks_are_printed_one_a_line():
    assert str(Preflight(CHECKS, pd.DataFrame())).splitlines() == [
        "FAILED denoises: worse than the linear denoiser",
        "note   classes: none",
    ]


def test_a_run_is_one_short_line():
    run = ns.Run(
        {"checkpoint": {"name": "mine"}, "sampler": "em:20", "samples": 1200},
        {"network": report_of(np.array([0.8, 0.4]), np.zeros((50, 2)), np.zeros((50, 2)))},
        None,
        torch.zeros(64, 1, 28, 28, dtype=torch.uint8),
        None,
    )
    assert repr(run) == "Run(mine under em:20, 1,200 samples read by network: see .answer, .table(), .reports)"


@pytest.mark.parametrize("given", ["residual", ["residual"], {"residual": None}])
def test_estimators_are_taken_by_name(given):
    assert ns.Protocol("euler:4", estimators=given).estimators == {"residual": None}


def test_the_default_estimators():
    assert list(ns.Protocol("euler:4").estimators) == ["network", "residual", "constant-pixel"]
