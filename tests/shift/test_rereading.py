"""A network that is read wrongly in one thing: the reading that fits better names that thing and nothing else."""

import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.predictions import Prediction
from noiseshift.shift.rereading import _spread, better_reading

PEAKS, WIDTH = torch.tensor([-0.6, 0.6], dtype=torch.float64), 0.1


def rows(count, seed=0):
    """Every coordinate is near one of two peaks: a linear denoiser does worse than one that knows them."""
    generator = torch.Generator().manual_seed(seed)
    peaks = PEAKS[torch.randint(2, (count, 64), generator=generator)]
    return peaks + WIDTH * torch.randn(count, 64, generator=generator, dtype=torch.float64)


def denoised(x, level, factor, offset):
    """The posterior mean of such data, in another range."""
    peaks, width = factor * PEAKS + offset, factor * WIDTH
    apart = x[..., None] - level.alpha[..., None] * peaks
    variance = (level.alpha * width) ** 2 + level.sigma**2
    weights = torch.softmax(-(apart**2) / (2 * variance[..., None]), -1)
    means = peaks + (level.alpha * width**2 / variance)[..., None] * apart
    return (weights * means).sum(-1)


ROWS = rows(300)
VALUES = {
    "velocity": lambda said: said.velocity,
    "epsilon": lambda said: said.eps,
    "x0": lambda said: said.x0,
    "score": lambda said: said.score,
    "v_prediction": lambda said: said.v,
}


def found(schedule=None, time=lambda u: u, factor=1.0, offset=0.0, predicts="velocity", sign=1.0, read="velocity"):
    """The better reading of a network that knows these data, of such a schedule, time, range and prediction, which is read
    on the linear schedule, of data in [-1, 1], given t."""
    own = schedule or ns.Linear()

    def network(x, u, cond):
        level = own(time(u.double())).like(x)
        said = Prediction.from_x0(denoised(x, level, factor, offset), x, level)
        return sign * VALUES[predicts](said)

    return better_reading(ns.wrap(network, ns.Linear(), predicts=read), ROWS[4:], ROWS[:4], None)


def test_a_right_reading_is_left():
    assert found() is None


def test_a_network_that_denoises_in_no_way_is_left():
    model = ns.wrap(lambda x, u, cond: 0 * x + u[:, None].sin(), ns.Linear(), predicts="velocity")
    assert better_reading(model, ROWS[4:], ROWS[:4], None) is None


def test_a_reading_no_better_than_the_linear_denoiser_is_not_named():
    """The network is that denoiser, read with time the other way: far worse than it could be, but it could be no more."""
    own, spread = ns.Linear(), float(ROWS.var(0).mean().sqrt())

    def network(x, u, cond):
        level = own(1 - u.double()).like(x)
        x0 = level.alpha * spread**2 / (level.alpha**2 * spread**2 + level.sigma**2) * x
        return Prediction.from_x0(x0, x, level).velocity

    assert better_reading(ns.wrap(network, own, predicts="velocity"), ROWS[4:], ROWS[:4], None) is None


def test_the_spread_is_that_over_rows():
    assert _spread(ROWS + 5 * torch.arange(64)) == pytest.approx(_spread(ROWS))
    assert _spread(ROWS) == pytest.approx(float(ROWS.var(0).mean().sqrt()))


def test_the_time_of_a_card_is_that_of_the_reading_as_it_is():
    own = ns.Linear()

    def network(x, u, cond):
        level = own(u.double() / 70).like(x)
        return Prediction.from_x0(denoised(x, level, 1.0, 0.0), x, level).eps

    model = ns.wrap(network, own, predicts="velocity", time={"scale": 70.0})
    assert better_reading(model, ROWS[4:], ROWS[:4], None).parts == {"prediction": "epsilon"}


def test_a_model_without_a_network_of_its_own_is_left():
    model = ns.targets.Gaussian(torch.zeros(64), torch.ones(64)).model(ns.Linear())
    assert better_reading(model, ROWS[4:], ROWS[:4], None) is None


TIMES = {
    "t, 0 is noise": lambda u: 1 - u,
    "steps 0 … 999, 0 is data": lambda u: (u + 1) / 1000,
    "steps 0 … 999, 0 is noise": lambda u: 1 - u / 1000,
    "log(sigma) / 4": lambda u: (4 * u).exp() / (1 + (4 * u).exp()),
}


@pytest.mark.parametrize("words", TIMES)
def test_another_time_is_named(words):
    best = found(time=TIMES[words])
    assert best.parts == {"time": words}
    assert best.ratio == pytest.approx(found(time=lambda u: 1 - u).ratio, rel=2e-3)  # the same states, as well denoised


@pytest.mark.parametrize(("words", "factor", "offset"), [("[0, 1]", 0.5, 0.5), ("[-1/2, 1/2]", 0.5, 0.0)])
def test_another_range_is_named(words, factor, offset):
    assert found(factor=factor, offset=offset).parts == {"range": words}


SCHEDULES = {
    "discrete, DDPM's linear betas": ns.Discrete.from_betas(),
    "variance-exploding": ns.VarianceExploding(),
}


@pytest.mark.parametrize("words", SCHEDULES)
def test_another_schedule_is_named(words):
    assert found(schedule=SCHEDULES[words]).parts == {"schedule": words}


@pytest.mark.parametrize("predicts", VALUES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_another_prediction_is_named(predicts, sign):
    """But v, which is so near the velocity of these levels that it denoises nearly as well."""
    best = found(predicts=predicts, sign=sign)
    if (predicts, sign) in (("velocity", 1.0), ("v_prediction", 1.0)):
        assert best is None
        return
    words = "velocity from noise to data" if predicts == "velocity" else f"{'minus ' if sign < 0 else ''}{predicts}"
    assert best.parts == {"prediction": words}
    assert best.ratio < 0.9
    assert best.sentence() == f"prediction {words}"


def test_a_velocity_is_named_with_its_direction():
    assert found(read="epsilon").parts == {"prediction": "velocity from data to noise"}
    assert found(read="epsilon", sign=-1.0).parts == {"prediction": "velocity from noise to data"}


def test_two_things_are_named_together():
    assert found(time=lambda u: 1 - u, predicts="epsilon").parts == {"time": "t, 0 is noise", "prediction": "epsilon"}
