"""What a run is said to cost is what it asks for."""

import json
import time
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.correction import methods
from noiseshift.data import ASSETS
from noiseshift.evaluation import StateFeatures, extract
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.studies.approximate import Plan
from noiseshift.studies.cost import Cost, estimate, parts
from noiseshift.studies.cost_of_studies import approximation_cost, comparison_cost, correction_cost, sampling_cost
from noiseshift.studies.draw import draw
from noiseshift.studies.grid import Cell, run_grid
from noiseshift.studies.kept_parts import kept_of_correction, kept_parts
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import available
from noiseshift.training.trial import trial

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


def counted_calls(monkeypatch, checkpoint, work):
    """Rows times branches that `work` asks the network for."""
    rows, own = [], type(checkpoint.model).predict

    def predict(self, x, t, cond, branches):
        rows.append(len(x) * len(branches))
        return own(self, x, t, cond, branches)

    with monkeypatch.context() as patch:
        patch.setattr(type(checkpoint.model), "predict", predict)
        work()
    return sum(rows)


def network_calls(cost):
    """Calls of the network itself: not those of the level estimator or of an extractor."""
    return sum(part.calls for part in cost.parts if "level estimator" not in part.name and part.name != "features")


METHODS = [
    methods.guided_method(nag=0.5, name="nag"),
    methods.guided_method(cfg=1, nag=0.5, name="cfg,nag"),
    methods.closed_loop(),
    methods.time_shift(0.1),
    methods.epsilon_scaling(1.01),
    methods.time_step_guidance(1),
    methods.score_rescaling(1.1),
    methods.wavelets(0.1),
]


@pytest.mark.parametrize(
    ("method", "solver"),
    [(method, "em:4") for method in METHODS] + [(METHODS[1], "diffusers/DEISMultistepScheduler:4")],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_corrections_calls_are_those_of_the_run(method, solver, monkeypatch):
    checkpoint, data = tiny()
    protocol = Protocol(ns.solver(solver), samples=10, estimators={"residual": None}, points=2, batch=4)
    stated = network_calls(correction_cost(checkpoint, protocol, [method], len(data), measured=5))
    extractor = StateFeatures()
    reference = extract(data.floats, extractor)
    spent = counted_calls(
        monkeypatch,
        checkpoint,
        lambda: ns.correct(checkpoint, protocol, [method], data, extractor, reference, measured=5, small=True),
    )
    if method.kind == "closed-loop":  # its scale is 0 where the run has no shift: fewer calls than NAG
        assert stated >= spent > 0.8 * stated
    else:
        assert stated == spent


@pytest.mark.parametrize("solver", ["euler:3", "ddim:4", "diffusers/EulerDiscreteScheduler:3"])
def test_what_earlier_runs_left_is_not_counted(solver, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path))
    checkpoint, data = tiny()
    protocol = Protocol(ns.solver(solver), samples=6, estimators={"residual": None}, points=2, batch=4)
    whole = Cost(tuple(parts(checkpoint, protocol, len(data))), 1.0, 1.0)
    for round_, made in enumerate([set(), {"preflight", "content control", "residual: calibrating"}]):
        stated = whole.without(kept_parts(checkpoint, protocol, data))
        assert set(stated.kept) == made, round_
        spent = evaluated(monkeypatch, checkpoint, protocol, data)
        monkeypatch.undo()
        monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path))
        assert network_calls(stated) == spent
    other = replace(protocol, seed=1)
    assert kept_parts(checkpoint, other, data) == {"preflight"}
    assert "residual: calibrating" not in kept_parts(checkpoint, replace(protocol, bands=True), data)


def test_what_an_earlier_correction_left_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path))
    checkpoint, data = tiny()
    protocol = Protocol("em:4", samples=10, estimators={"residual": None}, points=2, batch=4)
    extractor = StateFeatures()
    reference = extract(data.floats, extractor)
    for _ in range(2):
        cost = correction_cost(checkpoint, protocol, METHODS[:1], len(data), measured=5)
        stated = network_calls(cost.without(kept_of_correction(checkpoint, protocol, data)))
        spent = counted_calls(
            monkeypatch,
            checkpoint,
            lambda: ns.correct(checkpoint, protocol, METHODS[:1], data, extractor, reference, measured=5, small=True),
        )
        assert stated == spent


def test_what_a_run_of_a_grid_keeps_for_the_next_is_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path / "kept"))
    checkpoint, data = tiny()
    protocol = Protocol("euler:3", samples=6, estimators={"residual": None}, points=2, batch=4)
    named = {
        "first": protocol,
        "other levels": replace(protocol, solver=ns.solver("em:4")),  # the same checks, another calibration
        "guided": replace(protocol, guidance=ns.noise_awareness(0.5)),  # the same calibration, samples of its own
        "other seed": replace(protocol, seed=1),
    }
    cells = [Cell(name, checkpoint, each, data) for name, each in named.items()]
    costs = comparison_cost(cells)
    calibration, content = "residual: calibrating", "content control"
    assert [set(cost.kept) for cost in costs.values()] == [
        set(),
        {"preflight"},
        {"preflight", calibration},
        {"preflight"},
    ]
    stated = sum(network_calls(cost) for cost in costs.values())
    assert stated == counted_calls(monkeypatch, checkpoint, lambda: run_grid(cells, tmp_path / "grid"))
    assert all(content in [part.name for part in cost.parts] for cost in costs.values())


def test_what_ships_with_the_package_is_said_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path))
    result = CliRunner().invoke(main, ["measure", "--dry-run", "--out", str(tmp_path / "run")])
    assert "residual: calibrating               made before" in result.output
    result = CliRunner().invoke(main, ["measure", "--dry-run", "--seed", "7", "--out", str(tmp_path / "run"), "--json"])
    found = json.loads(result.stdout)
    assert found["kept"] == []
    assert "residual: calibrating" in [part["part"] for part in found["parts"]]


@pytest.mark.parametrize("solver", ["euler:4", "heun:3", "em:3"])
def test_the_calls_of_statement_1_are_those_of_the_study(solver, monkeypatch):
    checkpoint, data = tiny()
    plan = Plan(
        (ns.solver(solver),), rows=8, samples=4, substeps=2, points=2, estimators=("residual",), times=(0.2, 0.5)
    )
    stated = network_calls(approximation_cost(checkpoint, plan, len(data)))
    assert stated == counted_calls(monkeypatch, checkpoint, lambda: ns.approximate(checkpoint, plan, data))


def test_the_calls_of_samples_and_of_a_comparison_are_those_of_the_run(tmp_path, monkeypatch):
    checkpoint, data = tiny()
    protocol = Protocol("heun:4", samples=6, estimators={"residual": None}, points=1, guidance=ns.noise_awareness(0.5))
    stated = network_calls(sampling_cost(checkpoint, protocol))
    assert stated == counted_calls(monkeypatch, checkpoint, lambda: draw(checkpoint, protocol)) == 6 * 7 * 2
    cells = [Cell(name, checkpoint, replace(protocol, solver=ns.solver(name)), data) for name in ("heun:4", "euler:3")]
    costs = comparison_cost(cells, StateFeatures())
    stated = sum(network_calls(cost) for cost in costs.values())
    assert stated == counted_calls(
        monkeypatch, checkpoint, lambda: run_grid(cells, tmp_path / "grid", extractor=StateFeatures())
    )
    assert all(cost.parts[-1].name == "features" and cost.parts[-1].calls == 6 for cost in costs.values())


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "--samples", "4", "--sampler", "euler:3"],
        ["correct", "--samples", "200", "--sampler", "em:3", "--nag", "1"],
        ["compare", "--sampler", "euler:3", "--sampler", "em:3", "--samples", "8", "--out", "runs/both"],
        ["approx", "--sampler", "euler:3"],
        ["train", "--out", "trained", "--width", "32", "--depth", "1", "--steps", "100"],
        ["finetune", "--out", "tuned", "--batch", "4", "--steps", "100"],
        ["train-estimator", "--data", str(ASSETS / "fashion-heldout.npz"), "--steps", "100", "--batch", "8"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_says_what_it_would_cost_and_writes_nothing(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*words, "--dry-run"])
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("hours on this device"))
    assert 0 < float(line.split()[-1]) < 100
    assert list(tmp_path.iterdir()) == []


def test_a_training_is_timed_by_its_steps_and_its_start():
    """Half a second before the first step, a twentieth for each."""

    def train(folder, *, report):
        time.sleep(0.5)
        for step in range(100):
            time.sleep(0.05)
            report(step, 1.0)
        raise AssertionError("a trial goes on to the end")

    found = trial(train, steps=1000)
    assert 0.05 <= found.seconds < 0.15
    assert 0.4 <= found.before < 0.8
    assert found.hours == pytest.approx((found.before + 1000 * found.seconds) / 3600)


def test_a_training_that_fails_in_its_first_steps_says_so():
    def train(folder, *, report):
        raise ValueError("the loss is nan at step 0")

    with pytest.raises(ValueError, match="the loss is nan"):
        trial(train, steps=10)


@pytest.mark.parametrize("words", [["correct", "--exact"], ["compare", "runs/some"]], ids=lambda words: words[0])
def test_what_costs_no_call_says_so(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*words, "--dry-run"])
    assert result.exit_code == 2
    assert "dry-run" in result.output
