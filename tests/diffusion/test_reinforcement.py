"""Solvers of reinforcement learning on flows, against an exact Gaussian: everything they do to it is linear, so that the
variance of their states is known in closed form."""

import itertools
import math

import pytest
import torch

import noiseshift as ns

VARIANCES = torch.tensor([1e-6, 0.25, 1.0, 4.0], dtype=torch.float64)
TARGET = ns.targets.Gaussian(torch.zeros(4, dtype=torch.float64), torch.diag(VARIANCES))


class Drawn:
    """Noise of exactly unit variance and orthogonal to everything before: the k-th draw is axis k of a basis."""

    def __init__(self, count):
        self.rows, self.used = torch.eye(count, dtype=torch.float64) * math.sqrt(count), 1

    def __call__(self, x):
        found = self.rows[:, self.used : self.used + 1].expand_as(x)
        self.used += 1
        return found


def variances(update, steps):
    """(steps + 1, 4) the exact variance of every state: each state is a sum of orthogonal draws."""
    drawn, times = Drawn(steps + 2), torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    start = drawn.rows[:, :1].expand(-1, 4).clone()
    run = ns.sample(TARGET.model(ns.Linear()), start, times, update=update, noise=drawn)
    return times, torch.stack([step.x.square().mean(0) for step in run])


def flow_sde_recursion(a, steps):
    """The same by hand: x' = (1 + dt (v + w / 2 sigma eps) / x) x + sqrt(w |dt|) z of the linear schedule."""
    times, dt = torch.linspace(1, 0, steps + 1, dtype=torch.float64), -1 / steps
    found = [torch.ones_like(VARIANCES)]
    for k, t in enumerate(times[:-1].tolist()):
        total = (1 - t) ** 2 * VARIANCES + t**2
        x0, eps = (1 - t) * VARIANCES / total, t / total
        w = a**2 * t / (1 - (t if t < 1 else float(times[1])))
        gain = 1 + dt * (eps - x0) + dt * w / (2 * t) * eps
        assert k < steps
        found.append(gain**2 * found[-1] + w * abs(dt))
    return torch.stack(found)


@pytest.mark.parametrize("a", [0.0, 0.7, 1.2])
def test_flow_sde_is_what_its_authors_run(a):
    torch.testing.assert_close(variances(ns.samplers.flow_sde(a), 12)[1], flow_sde_recursion(a, 12))


@pytest.mark.parametrize(("a", "order"), [(0.5, 0.25), (0.7, 0.49), (1.2, 1.0)])
def test_flow_sdes_error_falls_as_the_first_steps_noise_is_forgotten(a, order):
    """The first step draws a² of the variance however short it is; from there the excess falls as (1 - t)^a² does, so that the
    order is a², at most 1."""
    excess = []
    for steps in (256, 1024, 4096):
        t = 0.5
        excess.append(float((flow_sde_recursion(a, steps)[steps // 2] / ((1 - t) ** 2 * VARIANCES + t**2) - 1)[0]))
    orders = [math.log(first / second, 4) for first, second in itertools.pairwise(excess)]
    assert orders[-1] == pytest.approx(order, abs=0.25 if order == 1 else 0.1)
    assert ns.solvers.FlowSDE(50, a=a).order is None


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_flow_sde_holds_too_much_noise_at_few_steps_and_leaves_grain(steps):
    """In the direction that holds only noise: above its level at every step, and sigma = a t / sqrt(1 - t) at the end."""
    times, found = variances(ns.samplers.flow_sde(0.7), steps)
    held = found[1:-1, 0] / ((1 - times[1:-1]) ** 2 * VARIANCES[0] + times[1:-1] ** 2)
    assert float(held.min()) > 1.02
    t = 1 / steps
    assert float(found[-1][0]) == pytest.approx(0.49 * t**2 / (1 - t), rel=0.3)


def test_cps_keeps_its_coefficients_and_loses_what_the_network_does_not_know():
    """Where x0 is known to the network (no variance) the level is kept exactly; where it is not, variance is missing, and finer
    steps do not bring it back."""
    point = ns.targets.Gaussian(torch.zeros(4, dtype=torch.float64), 1e-12 * torch.eye(4, dtype=torch.float64))
    drawn, times = Drawn(12), torch.linspace(1, 0, 11, dtype=torch.float64)
    run = ns.sample(
        point.model(ns.Linear()),
        drawn.rows[:, :1].expand(-1, 4).clone(),
        times,
        update=ns.samplers.coefficients_preserving(0.7),
        noise=drawn,
    )
    for t, step in zip(times, run, strict=True):
        torch.testing.assert_close(step.x.square().mean(0), (t**2).expand(4), atol=1e-5, rtol=1e-5)
    for steps in (10, 40, 160):
        final = variances(ns.samplers.coefficients_preserving(0.7), steps)[1][-1]
        assert float(1 - final[2] / VARIANCES[2]) > 0.25
    ddim = variances(ns.samplers.coefficients_preserving(0.0), 10)[1]
    torch.testing.assert_close(ddim, variances(ns.ddim(), 10)[1])


@pytest.mark.parametrize(("eta", "same"), [(0.0, ns.ddim()), (math.sqrt(2), ns.ancestral)])
def test_precise_lies_between_ddim_and_ddpm_and_beyond(eta, same):
    torch.testing.assert_close(variances(ns.samplers.precise(eta), 12)[1], variances(same, 12)[1])


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.4])
def test_precise_keeps_the_level_and_finer_steps_bring_back_the_datas_variance(eta):
    """What only holds noise is at its level at every step; what holds data is too narrow by a share that falls as the step does."""
    missing = []
    for steps in (16, 64, 256):
        times, found = variances(ns.samplers.precise(eta), steps)
        held = found[1:-1] / ((1 - times[1:-1, None]) ** 2 * VARIANCES + times[1:-1, None] ** 2)
        noisy = times[1:-1] > 0.1  # below, even this little variance is not all noise
        torch.testing.assert_close(held[noisy, 0], torch.ones(int(noisy.sum())).double(), atol=1e-4, rtol=0)
        missing.append(1 - found[-1, 1:] / VARIANCES[1:])
    assert float(missing[0].min()) > 0.02
    orders = [float(((a / b).log() / math.log(4)).min()) for a, b in itertools.pairwise(missing)]
    assert orders[1] == pytest.approx(1.0, abs=0.1)
    assert ns.solvers.Precise(50, eta=eta).order == 1


@pytest.mark.parametrize(
    "word",
    [
        "precise:20,eta=-1",
        "precise:20,a=1",
        "flow-sde:20,a=-1",
        "flow-sde:20,b=1",
        "flow-sde:20,a=x",
        "cps:20,eta=2",
        "cps:1",
        "cps:20:1",
    ],
)
def test_a_word_with_a_wrong_number_is_refused(word):
    with pytest.raises(ValueError, match=r"a must|eta must|no number|eta lies|at least 2|no sampler") as caught:
        ns.solver(word)
    assert "\n" not in str(caught.value)
