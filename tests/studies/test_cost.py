"""What a run is said to cost is what it asks for."""

import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.studies.cost import estimate, parts
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import available

pytestmark = pytest.mark.usefixtures("nothing_kept")


def evaluated(monkeypatch, checkpoint, protocol, data):
    """Rows times branches that a real run asks the network for."""
    rows, own = [], type(checkpoint.model).predict

    def predict(self, x, t, cond, branches):
        rows.append(len(x) * len(branches))
        return own(self, x, t, cond, branches)

    monkeypatch.setattr(type(checkpoint.model), "predict", predict)
    ns.run(checkpoint, protocol, data)
    return sum(rows)


def tiny():
    """An untrained network with all branches, and data of its size."""
    torch.manual_seed(0)
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3, noise_dropout=True))
    network.final_layer.linear.weight.data += 0.1
    model = NetworkModel(
        network, ns.Linear(), "velocity", lambda t: t, classes=3, class_dropout=True, noise_dropout=True
    )
    pixels = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 2
    checkpoint = Checkpoint("tiny", model, Card("sit"), "0" * 64, (1, 8, 8), 3, None, lambda x: x)
    return checkpoint, ns.data.Images(pixels, torch.arange(60) % 3)


@pytest.mark.parametrize(
    ("solver", "guidance", "limit"),
    [("heun:4", ns.noise_awareness(0.5, interval=(0.2, 0.8)), None), ("em:3", None, 3)],
)
def test_calls_are_those_of_the_run(solver, guidance, limit, monkeypatch):
    checkpoint, data = tiny()
    protocol = Protocol(
        ns.solver(solver),
        samples=6,
        estimators={"residual": limit},
        guidance=guidance,
        points=1,
        calibration_rows=4,
        controls=True,
        batch=4,
    )
    stated = sum(part.calls for part in parts(checkpoint, protocol, len(data)))
    assert stated == evaluated(monkeypatch, checkpoint, protocol, data)


@pytest.mark.parametrize("name", ["fokker-planck", "score-mixture"])
def test_estimators_that_ask_cost_about_what_is_said(name, monkeypatch):
    """Their calls depend on the states: on how narrow their posteriors are."""
    checkpoint, data = ns.load(), ns.data.reference()[:60]
    protocol = Protocol("em:3", samples=2, estimators={name: 2}, points=1, calibration_rows=2)
    with monkeypatch.context() as patch:
        spent = evaluated(patch, checkpoint, protocol, data)
    stated = sum(part.calls for part in parts(checkpoint, protocol, len(data)))
    assert 0.6 < stated / spent < 1.6


def test_the_checks_before_a_default_run_are_a_twentieth_of_it_at_most():
    checkpoint, data = ns.load(), ns.data.reference()
    protocol = Protocol("em:50", samples=256, estimators=available(checkpoint, data))
    calls = {part.name: part.calls for part in parts(checkpoint, protocol, len(data))}
    assert 0 < calls["preflight"] < 0.05 * sum(calls.values())


def test_without_a_number_all_of_the_half_is_calibrated_on():
    every, said, more = (
        Protocol("em:3", samples=6, estimators={"residual": None}, calibration_rows=rows, controls=True)
        for rows in (None, 30, 500)
    )
    checkpoint = ns.load()
    assert parts(checkpoint, every, 60) == parts(checkpoint, said, 60) == parts(checkpoint, more, 60)
    with pytest.raises(ValueError, match="at least 2"):
        Protocol("em:3", calibration_rows=1)


def test_a_call_of_sit_xl_2_is_237_gflop():
    config = TransformerConfig(32, 4, 2, 1152, 28, 16, 1000, 8, noise_dropout=False)
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Transformer(config)(torch.empty(1, 4, 32, 32), torch.empty(1), torch.zeros(1, dtype=torch.long))
    assert abs(counter.get_total_flops() / 237.2e9 - 1) < 0.01


def test_hours_are_shared_among_devices():
    cost = estimate(ns.load(), Protocol(ns.solver("euler:5"), samples=10), 100)
    assert cost.flop > 1e8
    assert cost.hours(4) == cost.hours() / 4
    assert cost.total_flop == sum(p.calls * p.weight for p in cost.parts) * cost.flop


def test_a_dry_run_prints_the_parts_and_writes_nothing(tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["measure", "--dry-run", "--sampler", "euler:5", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "sampling" in result.output
    assert "FLOP" in result.output
    assert not out.exists()
