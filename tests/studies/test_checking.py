"""The checks before the first number, in every command: the first line of terminal, run.json and page; --strict ends there."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.approximate import print_study
from noiseshift.analysis.checks import of_runs
from noiseshift.analysis.report import page
from noiseshift.analysis.tables import print_run
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.shift.preflight import preflight
from noiseshift.studies.checking import checked

HEAD = "A check before the measurement failed"


def checkpoint():
    target = ns.targets.Gaussian(torch.zeros(16, dtype=torch.float64), torch.full((16,), 0.25))
    exact = target.model(ns.Linear())
    model = ns.wrap(lambda x, t, cond: exact(x.flatten(1), t).x0.reshape(x.shape), ns.Linear(), predicts="x0")
    return Checkpoint("mine", model, Card("callable"), "0" * 64, (1, 4, 4), 0, None, lambda x: x)


WRONG = ns.data.Images(
    3 * torch.rand(80, 1, 4, 4, generator=torch.Generator().manual_seed(0))
)  # no pictures in [-1, 1]
PROTOCOL = ns.Protocol("euler:4", samples=16, estimators={"residual": None}, points=2)
PLAN = ns.Plan(("euler:4",), times=(0.3,), ratios=(0.5,), rows=16, samples=8, substeps=2, estimators=("residual",))


def test_a_failed_check_is_the_first_line_of_a_measurement(tmp_path, capsys):
    run = ns.run(checkpoint(), PROTOCOL, WRONG)
    print_run(run)
    assert capsys.readouterr().out.startswith("FAIL  preflight, range")
    run.save(tmp_path / "run")
    assert next(iter(json.loads((tmp_path / "run" / "run.json").read_text()))) == "preflight"
    assert page({"run": run}).split('class="answer')[1].split("<p>")[1].startswith(HEAD)
    assert of_runs({"first": run, "second": run}).failures[0].name == "first, second, range"


def test_a_failed_check_is_the_first_line_of_an_approximation(tmp_path, capsys):
    study = ns.approximate(checkpoint(), PLAN, WRONG)
    print_study(study)
    assert capsys.readouterr().out.startswith("FAIL  preflight, range")
    study.save(tmp_path / "approx")
    assert next(iter(json.loads((tmp_path / "approx" / "run.json").read_text()))) == "preflight"
    assert page({"a": tmp_path / "approx"}).split('class="answer')[1].split("<p>")[1].startswith(HEAD)


@pytest.mark.parametrize(
    "study",
    [
        lambda: ns.run(checkpoint(), PROTOCOL, WRONG, strict=True),
        lambda: ns.approximate(checkpoint(), PLAN, WRONG, strict=True),
        partial(checked, checkpoint(), WRONG, strict=True),
    ],
)
def test_strict_stops_before_the_first_number(study):
    with pytest.raises(ValueError, match="scale these data to that"):
        study()


@pytest.fixture
def wide(tmp_path):
    """States that no picture in [-1, 1] has."""
    part = ns.data.reference()[:64]
    np.savez(tmp_path / "wide.npz", latents=3 * part.floats.numpy(), labels=part.labels.numpy())
    return tmp_path / "wide.npz"


@pytest.mark.parametrize(
    "words",
    [
        ("measure",),
        ("approx",),
        ("correct", "--small"),
        ("compare", "--sampler", "euler:4"),
        ("info",),
        ("info", "--json"),
    ],
)
def test_strict_is_exit_code_1_in_every_command(words, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*words, "--data", str(wide), "--strict"])
    assert result.exit_code == 1
    assert "scale these data" in " ".join(result.output.split())
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.json"))


def test_info_calls_the_network_once_and_says_what_it_is_handed(tmp_path):
    result = CliRunner().invoke(main, ["info", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert next(iter(found)) == "preflight"
    named = {check["name"]: check for check in found["preflight"]["checks"]}
    assert named["time"]["passed"] is True
    assert "float32" in named["time"]["sentence"]
    assert named["data"]["passed"] is None


def test_a_network_that_cannot_be_called_fails_its_check():
    made = ns.load()

    class Broken(torch.nn.Module):
        def forward(self, *rest):
            raise RuntimeError("no kernel for this device")

    made.model.network = Broken()
    check = preflight(made, None).failures[0]
    assert (check.name, "no kernel for this device" in check.sentence) == ("time", True)


def diverging():
    """The exact denoiser of normal pixels, whose noise is a tenth near pure noise, where alpha is 0.006."""
    schedule = ns.Discrete.from_betas()

    def noise(x, t, cond=None):
        alpha, sigma, *_ = schedule(t.double()).like(x)
        x0 = alpha * x * 0.25 / (alpha.square() * 0.25 + sigma.square())
        off = torch.where(t.reshape(-1, 1, 1, 1) > 0.95, -0.9, 0.0)
        return (1 + off) * (x - alpha * x0) / sigma

    model = ns.wrap(noise, schedule, predicts="epsilon")
    return Checkpoint("mine", model, Card("callable"), "0" * 64, (1, 8, 8), 0, None, lambda x: x)


def test_a_run_whose_samples_diverge_says_so_first_and_the_remedy_is_one(capsys):
    """Its checks pass: the network denoises, and its samples are like the data where predicted data are kept within a range."""
    draw = torch.Generator().manual_seed(0)
    data = ns.data.Images((0.5 * torch.randn(256, 1, 8, 8, generator=draw)).clamp(-1, 1))
    protocol = ns.Protocol("ddim:10", samples=32, estimators={"residual": None}, points=2)
    run = ns.run(diverging(), protocol, data)
    assert [check.name for check in run.preflight.failures] == ["samples"]
    print_run(run)
    assert capsys.readouterr().out.startswith("FAIL  preflight, samples: this run's samples diverge")
    with pytest.raises(ValueError, match="clip_sample=true"):
        ns.run(diverging(), protocol, data, strict=True)
    kept = replace(protocol, solver=ns.solver("diffusers/DDIMScheduler:10,clip_sample=true"))
    assert ns.run(diverging(), kept, data, strict=True).preflight.passed
