"""Half precision rounds no time and no level: either would be a noise shift of its own."""

import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL
from noiseshift.networks.model import NetworkModel

T = 0.1234567
X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
HALF = [torch.float16, torch.bfloat16]


class RecordedTimes:
    """Models of every kind, and the times that their networks were conditioned on."""

    def __init__(self):
        self.times = []

    def answer(self, x, t):
        self.times.append(t.detach().clone())
        return 0.5 * x

    def wrapped(self):
        return ns.wrap(lambda x, t, c: self.answer(x, t), ns.Linear(), blind=lambda x, c: 0.4 * x)

    def network(self, dtype):
        recorded = self

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones((), dtype=dtype))

            def forward(self, x, time, label, known):
                return recorded.answer(x, time)

        return NetworkModel(
            Net(), ns.Linear(), "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=True
        )

    def adapted(self):
        return ns.adapters.azula(type("Denoiser", (), {"schedule": lambda s, t: (1 - t, t), "__call__": self._azula})())

    def _azula(self, x, t):
        return type("Answer", (), {"mean": self.answer(x, t)})()

    def conditioned_exactly(self, *times):
        """Every conditioning time is one of `times`, to float32."""
        wanted = torch.tensor(times, dtype=torch.float64)
        for t_cond in self.times:
            assert t_cond.dtype in (torch.float32, torch.float64)
            assert float((t_cond.double()[..., None] - wanted).abs().min(-1).values.max()) < 1e-7
        return bool(self.times)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("way", ["wrapped", "network", "adapted"])
def test_a_network_is_conditioned_on_the_time_of_the_call(way, dtype):
    recorded = RecordedTimes()
    model = recorded.network(dtype) if way == "network" else getattr(recorded, way)()
    for t in (torch.tensor(T), torch.full((3,), T), torch.tensor(T, dtype=torch.float64)):
        model(X.to(dtype), t)
    if way != "adapted":
        model.predict(X.to(dtype), torch.tensor(T), None, (FULL, NOISE_UNCONDITIONAL))
    assert recorded.conditioned_exactly(T)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("update", [ns.euler, ns.heun, ns.ddim(), None], ids=["euler", "heun", "ddim", "scheduler"])
def test_a_sampler_tells_its_own_times(update, dtype):
    recorded = RecordedTimes()
    model = recorded.wrapped()
    if update is None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        update, times = ns.from_diffusers(FlowMatchEulerDiscreteScheduler(shift=1.7), 5), None
        grid = update.times(model.schedule)
    else:
        times = grid = torch.tensor([1.0, 0.7777777, T, 0.0], dtype=torch.float64)
    list(ns.sample(model, X.to(dtype), times, update=update))
    assert recorded.conditioned_exactly(*grid.tolist())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["residual", "score-mixture", "fokker-planck"])
def test_an_estimator_evaluates_at_its_own_times(kind, dtype):
    recorded = RecordedTimes()
    model, times = recorded.wrapped(), torch.tensor([0.0987654, T, 0.3456789, 0.5678912], dtype=torch.float64)
    x, t = X.to(dtype), torch.tensor(T, dtype=torch.float64)
    if kind == "residual":
        estimator = ns.estimators.Residual(model, x, times, generator=torch.Generator())
    elif kind == "score-mixture":
        estimator = ns.estimators.ScoreMixture(model, times)
    else:
        estimator = ns.estimators.FokkerPlanck(model, times)
    if kind == "score-mixture":  # beside a step it chooses all of its levels itself
        estimator(x)
    else:
        estimator(x, step=ns.Step(0, t, x))
    if kind == "fokker-planck":  # it reads levels of its own beside the times
        every = torch.cat([t_cond.double().flatten() for t_cond in recorded.times])
        assert float((every[:, None] - times).abs().min(0).values.max()) < 1e-7
        return
    if kind == "score-mixture":  # it refines its levels: those of the first pass are the times
        recorded.times = recorded.times[:1]
    assert recorded.conditioned_exactly(*times.tolist())


@pytest.mark.parametrize("dtype", HALF)
def test_a_mixed_state_is_rounded_once(dtype):
    """In bfloat16 a sigma of 0.1234567 is one of 0.1235: 2 % of a step of 100."""
    x0, eps = X.to(dtype), torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    mixed = ns.Linear()(torch.tensor(T)).mix(x0, eps)
    exact = (1 - T) * x0.double() + T * eps.double()
    assert mixed.dtype == dtype
    assert torch.equal(mixed, exact.float().to(dtype))


@pytest.mark.parametrize(
    "t", [torch.tensor(0.3), torch.tensor([0.1, 0.5, 0.9]), torch.tensor(0.3, dtype=torch.float64)]
)
def test_mix_is_the_equation(t):
    for schedule in (ns.Linear(), ns.VariancePreserving(), ns.VarianceExploding()):
        level, eps = schedule(t), torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
        row = level.alpha.reshape(-1, 1, 1, 1), level.sigma.reshape(-1, 1, 1, 1)
        mixed = level.mix(X, eps)
        torch.testing.assert_close(mixed, (row[0] * X + row[1] * eps).float(), rtol=1e-6, atol=1e-6)
        assert torch.equal(level.like(X).mix(X, eps), mixed)
        assert level.mix(X.double(), eps).dtype == torch.float64
    with pytest.raises(ValueError, match="t must be"):
        ns.Linear()(torch.tensor([0.1, 0.2])).mix(X, X)
