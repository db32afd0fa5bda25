"""Other libraries' objects, built by their own code, against what we read of them: predictions, samplers, weights."""

import itertools

import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.checkpoints import CheckpointError
from noiseshift.integrations import Recorder

TIMES = (0.05, 0.3, 0.62, 0.95)


class Net(nn.Module):
    """A small network of a state and a number, named as its library names them."""

    def __init__(self, order=("x", "t")):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.order = nn.Sequential(nn.Linear(9, 16), nn.GELU(), nn.Linear(16, 8)), order

    def forward(self, *args, **kwargs):
        given = dict(zip(self.order, args, strict=False)) | kwargs
        x, t = given["x"], given["t"]
        return self.body(torch.cat([x, t.expand(len(x))[:, None].to(x)], 1))


def states():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["CondOT", "Cosine", "VP", "LinearVP"])
def test_flow_matching_velocities_are_read_as_their_own_path_converts_them(name):
    scheduler_module = pytest.importorskip("flow_matching.path.scheduler")
    from flow_matching.path import AffineProbPath

    scheduler = getattr(scheduler_module, f"{name}Scheduler")()
    # In float64: their conversions divide small differences, in float32 they are off by 1e-4 themselves.
    network, path, x = Net().double(), AffineProbPath(scheduler), states().double()
    model = ns.adapters.flow_matching(network, scheduler)
    for t in TIMES:
        there = torch.tensor(1 - t, dtype=torch.float64)
        with torch.no_grad():
            velocity, found = network(x=x, t=there), model(x, torch.tensor(t, dtype=torch.float64))
        torch.testing.assert_close(found.velocity, -velocity, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.x0, path.velocity_to_target(velocity, x, there), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.eps, path.velocity_to_epsilon(velocity, x, there), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", ["VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule"])
def test_azula_denoisers_predict_what_they_say(schedule):
    noise = pytest.importorskip("azula.noise")
    from azula.denoise import KarrasDenoiser

    denoiser, x = KarrasDenoiser(Net(), getattr(noise, schedule)()), states()
    model = ns.adapters.azula(denoiser)
    for t in torch.tensor(TIMES):
        with torch.no_grad():
            mean, found = denoiser(x, t.expand(5)).mean, model(x, t)
        alpha, sigma = denoiser.schedule(t)
        torch.testing.assert_close(found.x0, mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("matcher", "schedule"), [("", ns.Linear()), ("VariancePreserving", ns.Cosine())])
def test_torchcfm_targets_are_read_as_the_data_and_noise_that_made_them(matcher, schedule):
    torchcfm = pytest.importorskip("torchcfm")
    flow = getattr(torchcfm, f"{matcher}ConditionalFlowMatcher")(sigma=0.0)
    noise, data = states(), states().flip(0)
    for t in TIMES:
        _, x, target = flow.sample_location_and_conditional_flow(noise, data, torch.full((5,), 1 - t))
        found = ns.adapters.torchcfm(lambda time, x, target=target: target, schedule)(x, torch.tensor(t))
        torch.testing.assert_close(found.x0, data, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.eps, noise, rtol=1e-5, atol=1e-5)


def recorded(model, **options):
    """An observer that also lists what it records."""
    seen = ns.observe(model, points=1000, **options)
    seen.call_of = []
    original = seen.record
    seen.record = lambda x, t, prediction: (seen.call_of.append((float(t), x, prediction)), original(x, t, prediction))
    return seen


def test_an_azula_heun_sampler_is_watched_at_its_states_and_not_inside_its_steps():
    sample = pytest.importorskip("azula.sample")
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule

    denoiser = KarrasDenoiser(Net(), VPSchedule())
    sampler = sample.HeunSampler(denoiser, steps=6, silent=True)
    calls = []
    handle = denoiser.register_forward_hook(lambda module, args, output: calls.append((float(args[1]), args[0])))
    with recorded(ns.adapters.azula(denoiser), times=sampler.timesteps) as seen:
        sampler(states())
    handle.remove()
    expected = [float(t) for t in sampler.timesteps if 0 < t < 1]
    assert [t for t, *_ in seen.call_of] == pytest.approx(expected, abs=1e-6)
    for t, x, prediction in seen.call_of:
        true = [state for t_cond, state in calls if t_cond == pytest.approx(t, abs=1e-6)][
            -1
        ]  # Heun's trial point comes first
        torch.testing.assert_close(x, true)
        with torch.no_grad():
            torch.testing.assert_close(prediction.x0, denoiser(x, torch.tensor(t).float()).mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4"])
def test_a_fixed_grid_solver_is_watched_at_its_grid(method):
    odeint = pytest.importorskip("torchdiffeq").odeint
    network = Net(("t", "x"))
    grid = torch.linspace(0, 1, 7)
    with torch.no_grad():
        path = odeint(lambda t, x: network(t, x), states(), grid, method=method)
        with recorded(ns.adapters.torchcfm(network), times=grid) as seen:
            odeint(lambda t, x: network(t, x), states(), grid, method=method)
    assert len(seen.call_of) == 5
    for (t, x, _), where, state in zip(seen.call_of, grid[1:-1], path[1:-1], strict=True):
        assert t == pytest.approx(1 - float(where), abs=1e-6)
        torch.testing.assert_close(x, state, rtol=1e-5, atol=1e-5)


def test_an_adaptive_solver_is_watched_where_its_steps_were_accepted():
    odeint = pytest.importorskip("torchdiffeq").odeint

    def stiff(t, x):  # sharp in time, so that steps are rejected
        return torch.tanh(40 * (t - 0.6)) * x

    seen = recorded(ns.adapters.torchcfm(stiff), times="accepted")
    with seen:
        odeint(seen, states().double(), torch.tensor([0.0, 1.0]).double(), method="dopri5", rtol=1e-7, atol=1e-8)
    found = [(1 - t, x) for t, x, _ in seen.call_of]
    assert len(found) > 4
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(found))  # nothing from a step that was taken back
    exact = odeint(stiff, states().double(), torch.tensor([0.0, *[t for t, _ in found]]).double(), rtol=1e-9, atol=1e-9)
    for (_, x), true in zip(found, exact[1:], strict=True):
        assert float((x - true).abs().max()) < 1e-5


def test_an_exact_model_watched_through_a_solver_has_no_shift_of_the_taps_making():
    odeint = pytest.importorskip("torchdiffeq").odeint
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), 4.0 / torch.arange(1, 65).double())
    exact, schedule = target.model(ns.Linear()), ns.Linear()
    seen = ns.observe(
        ns.adapters.torchcfm(lambda t, x: -exact(x, 1 - t).velocity), {"exact": target.estimator(schedule)},
        times=torch.linspace(0, 1, 81), points=6,
    )  # fmt: skip
    with seen:
        for seed in (0, 1):
            x = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).double()
            odeint(seen, x, torch.linspace(0, 1, 81).double(), method="midpoint")
    table = seen.report(target.sample(256, torch.Generator().manual_seed(1))).table()
    assert list(table.n) == [128] * 6
    assert float(table["shift"].abs().max()) < 0.02
    # The runs' own samples are exact too, so they calibrate as well as real ones.
    own = seen.report()
    assert own.estimator == "exact-content"
    assert float(own.table()["shift"].abs().max()) < 0.02
    residual = seen.report(estimator="residual")
    assert residual.estimator == "residual-content"
    usable = residual.table()[residual.table().slope >= 0.5]
    assert float(usable["shift"].abs().max()) < 0.03


def test_a_loop_without_anything_to_calibrate_on_says_so():
    recorder = Recorder(ns.Linear())
    recorder.record(states(), 0.5)
    with pytest.raises(ValueError, match="pass real samples"):
        recorder.report()


@pytest.mark.parametrize(
    "content",
    [
        lambda s, a: {"config": {"model": {}}, "model": s, "model_ema": a, "step": 3},
        lambda s, a: {"net_model": s, "ema_model": a, "optim": {}, "step": 3},
        lambda s, a: {"net_model": s, "ema_model": {f"module.{k}": v for k, v in a.items()}, "step": 3},
        lambda s, a: a,
        lambda s, a: {
            "model": {f"model.{k}": v for k, v in s.items()}
            | {f"shadow_params.{i}": v for i, v in enumerate(a.values())}
            | {"num_updates": torch.tensor(4)},
            "epoch": 3,
        },
    ],
    ids=["k-diffusion", "torchcfm", "torchcfm-parallel", "bare", "flow-matching"],
)
def test_averaged_weights_fill_the_network(tmp_path, content):
    plain, averaged = Net().state_dict(), {k: v + 1 for k, v in Net().state_dict().items()}
    torch.save(content(plain, averaged), tmp_path / "model.pth")
    network = ns.adapters.weights(tmp_path / "model.pth", Net())
    assert not network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, averaged[name])
    wrong = nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="as it was trained") as caught:
        ns.adapters.weights(tmp_path / "model.pth", wrong)
    assert "\n" not in str(caught.value)


def test_a_file_with_code_is_refused(tmp_path):
    torch.save(Net(), tmp_path / "model.pth")  # the whole object, which only code can rebuild
    with pytest.raises(CheckpointError, match=r"holds code.*not run"):
        ns.adapters.weights(tmp_path / "model.pth", Net())


@pytest.mark.parametrize("shape", [(3,), (1, 8), (2, 4, 4)])
def test_edms_denoiser_of_states_of_any_shape(shape):
    """With F = 0 it is the linear denoiser of data of spread sigma_data; F is given c_in x and log(sigma) / 4."""
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x, noise, label):
            seen[:] = [x, noise, label]
            return 0 * x

    x, sigma, label = torch.randn(2, *shape), torch.tensor([0.5, 2.0]), torch.tensor([1, 0])
    answer = ns.adapters.EdmDenoiser(Network(), 0.7)(x, sigma, label)
    total = (sigma**2 + 0.49).reshape(2, *[1] * len(shape))
    torch.testing.assert_close(answer, 0.49 / total * x)
    torch.testing.assert_close(seen[0], x / total.sqrt())
    torch.testing.assert_close(seen[1], sigma.log() / 4)
    assert seen[2] is label
    with pytest.raises(ValueError, match="sigma_data"):
        ns.adapters.EdmDenoiser(Network(), 0.0)
