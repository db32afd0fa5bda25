"""Schedules against closed forms, in float64."""

import math

import pytest
import torch

from noiseshift.diffusion.schedules import (
    Cosine,
    Discrete,
    Linear,
    Schedule,
    SubVariancePreserving,
    Tabulated,
    VarianceExploding,
    VarianceExplodingSDE,
    VariancePreserving,
    build,
    describe,
)

T = torch.tensor([0.001, 0.01, 0.1, 0.37, 0.5, 0.8, 0.99], dtype=torch.float64)
ALL = [
    Linear(),
    Cosine(),
    VariancePreserving(),
    VarianceExploding(),
    Discrete.from_betas(),
    SubVariancePreserving(),
    VarianceExplodingSDE(),
]
named = pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)


def closed_forms():
    """Schedule → (alpha, sigma, dalpha, dsigma) at T, each written out by hand."""
    half = math.pi / 2
    beta = 0.1 + T * 19.9
    alpha = torch.exp(-0.25 * T**2 * 19.9 - 0.05 * T)
    sigma = torch.sqrt(1 - alpha**2)
    growth = math.log(80 / 0.002)
    return [
        (Linear(), (1 - T, T, -torch.ones_like(T), torch.ones_like(T))),
        (Cosine(), (torch.cos(half * T), torch.sin(half * T), -half * torch.sin(half * T), half * torch.cos(half * T))),
        (VariancePreserving(), (alpha, sigma, -0.5 * beta * alpha, 0.5 * beta * alpha**2 / sigma)),
        (VarianceExploding(), (T**0, 0.002 * 40000**T, 0 * T, growth * 0.002 * 40000**T)),
    ]


@pytest.mark.parametrize(("schedule", "expected"), closed_forms(), ids=lambda v: type(v).__name__)
def test_values_and_slopes(schedule, expected):
    for got, want in zip(schedule(T), expected, strict=True):
        # The floor of 1e-12 in the variance-preserving sigma² shows at t = 0.001, where sigma² is 1e-4.
        torch.testing.assert_close(got, want, rtol=2e-8, atol=1e-14)


@pytest.mark.parametrize("schedule", [*ALL, Discrete.cosine(), Discrete.sigmoid(40), Tabulated.of(Cosine())], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_slopes_that_are_written_out_are_those_of_differentiation(schedule, dtype):
    """In and near the knots of a table, and of one number or many."""
    t = torch.cat([torch.linspace(0.01, 0.99, 99), torch.tensor([0.0003, 0.0007, 0.9993])]).to(dtype)
    wanted = torch.func.jvp(schedule.coefficients, (t,), (torch.ones_like(t),))[1]
    # In float32 differentiation multiplies by a rounded 1 - alpha².
    near = {torch.float32: 2e-3, torch.float64: 1e-9}[dtype]
    for found, want in zip(schedule(t)[2:], wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=near, atol=near)
        assert found.dtype == dtype
    for k in (0, 37, 100):
        for one, every in zip(schedule(t[k]), schedule(t), strict=True):
            torch.testing.assert_close(one, every[k])


def test_the_slope_of_a_tables_signal_is_not_lost_at_the_data():
    """Differentiation multiplies by 1 - alpha², which rounds to 0 there."""
    schedule = Discrete.from_betas()
    alpha = [float(schedule(torch.tensor(t, dtype=torch.float64)).alpha) for t in (0, 1e-6)]
    assert float(schedule(torch.tensor(0.0, dtype=torch.float64)).dalpha) == pytest.approx(
        (alpha[1] - alpha[0]) / 1e-6, rel=1e-3
    )


def test_a_subclass_that_changes_its_coefficients_has_their_slopes():
    class Squared(Linear):
        def coefficients(self, t):
            return 1 - t**2, t**2

    level = Squared()(torch.tensor(0.25, dtype=torch.float64))
    assert level.dalpha == pytest.approx(-0.5)
    assert level.dsigma == pytest.approx(0.5)


def test_slopes_of_a_table_are_those_of_its_log_snr():
    """Variance preserving: d log alpha = sigma² / 2 dλ, d log sigma = -alpha² / 2 dλ; λ is linear between two steps."""
    schedule, t = Discrete.from_betas(), torch.tensor([0.0105, 0.3005, 0.9995], dtype=torch.float64)
    alpha, sigma, dalpha, dsigma = schedule(t)
    step = (t * 1000).floor().long()
    slope = (torch.logit(schedule.alphas_cumprod[step]) - torch.logit(schedule.alphas_cumprod[step - 1])) * 1000
    torch.testing.assert_close(dalpha, alpha * sigma**2 / 2 * slope, rtol=1e-10, atol=0)
    torch.testing.assert_close(dsigma, -sigma * alpha**2 / 2 * slope, rtol=1e-10, atol=0)


@named
def test_slopes_agree_with_differences(schedule):
    t, h = torch.tensor([0.0203, 0.4007, 0.9004], dtype=torch.float64), 1e-6
    low, high = schedule.coefficients(t - h), schedule.coefficients(t + h)
    level = schedule(t)
    for slope, before, after in zip((level.dalpha, level.dsigma), low, high, strict=True):
        torch.testing.assert_close(slope, (after - before) / (2 * h), rtol=1e-5, atol=1e-9)


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_finite(schedule, dtype):
    level = schedule(torch.tensor([0.0, 1.0], dtype=dtype))
    for part in (*level, schedule.log_snr(torch.tensor([0.0, 1.0], dtype=dtype))):
        assert part.dtype == dtype
        assert part.isfinite().all()


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_flows_end_in_pure_data_and_pure_noise(schedule):
    alpha, sigma, *_ = schedule(torch.tensor([0.0, 1.0]))
    assert alpha.tolist() == [1, 0]
    assert sigma.tolist() == [0, 1]


@named
def test_noise_grows_and_signal_does_not(schedule):
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(t)
    assert (sigma.diff() > 0).all()
    assert (alpha.diff() <= 0).all()
    assert (schedule.log_snr(t).diff() < 0).all()


@named
def test_variance_preserving_schedules_preserve_it(schedule):
    alpha, sigma, *_ = schedule(T)
    preserved = isinstance(schedule, Cosine | VariancePreserving | Discrete)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(T), rtol=0, atol=1e-11) == preserved


@pytest.mark.parametrize(
    ("schedule", "time_of_sigma", "time_of_log_snr"),
    [
        (Linear(), lambda s: s, lambda r: 1 / (1 + r)),
        (Cosine(), lambda s: 2 / math.pi * math.asin(s), lambda r: 2 / math.pi * math.atan(1 / r)),
        (
            VarianceExploding(),
            lambda s: math.log(s / 0.002) / math.log(40000),
            lambda r: math.log(1 / r / 0.002) / math.log(40000),
        ),
        (
            VariancePreserving(),
            # ∫beta = 0.1 t + 9.95 t² = -log(1 - sigma²), a quadratic in t
            lambda s: (-0.1 + math.sqrt(0.01 - 39.8 * math.log(1 + 1e-12 - s * s))) / 19.9,
            lambda r: (-0.1 + math.sqrt(0.01 + 39.8 * math.log1p(1 / (r * r)))) / 19.9,
        ),
    ],
    ids=["linear", "cosine", "exploding", "preserving"],
)
def test_inverses_are_the_closed_ones(schedule, time_of_sigma, time_of_log_snr):
    for sigma in (0.01, 0.2, 0.7, 0.95):
        assert float(schedule.time_of_sigma(sigma)) == pytest.approx(time_of_sigma(sigma), abs=1e-8)
    for ratio in (0.05, 1.0, 9.0):  # alpha / sigma
        found = schedule.time_of_log_snr(2 * math.log(ratio))
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(time_of_log_snr(ratio), abs=1e-8)


@named
def test_inverses_undo_the_schedule(schedule):
    torch.testing.assert_close(schedule.time_of_sigma(schedule(T).sigma), T, rtol=0, atol=1e-9)
    torch.testing.assert_close(schedule.time_of_log_snr(schedule.log_snr(T)), T, rtol=0, atol=1e-9)


@named
def test_inverses_refuse_what_no_time_has(schedule):
    most = float(schedule(torch.tensor(1.0, dtype=torch.float64)).sigma)
    for sigma in (most + 0.1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"^sigma must lie in \[[-\d.e+]+, [-\d.e+]+\] for this schedule$"):
            schedule.time_of_sigma(sigma)
    with pytest.raises(ValueError, match=r"^log_snr must lie in"):
        schedule.time_of_log_snr(torch.tensor([0.0, 5000.0]))


def test_a_table_is_met_at_its_times():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    table = (1 - betas).cumprod(0)
    schedule = Discrete(table)
    assert schedule.times[0] == 0.001
    assert schedule.times[-1] == 1
    alpha, sigma, *_ = schedule(schedule.times)
    torch.testing.assert_close(alpha, table.sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma, (1 - table).sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(Discrete.from_betas().alphas_cumprod, table, rtol=0, atol=0)


@pytest.mark.parametrize("steps", [20, 1000])
def test_tables_of_named_betas_are_the_papers(steps):
    def cosine(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # arXiv 2102.09672, equation 17

    def sigmoid(u):
        logistic = [1 / (1 + math.exp(-x)) for x in (3.0, 6 * u - 3, -3.0)]  # arXiv 2212.11972, algorithm 1
        return (logistic[0] - logistic[1]) / (logistic[0] - logistic[2])

    for name, signal in (("cosine", cosine), ("sigmoid", sigmoid)):
        table = build({"kind": "discrete", "betas": name, "steps": steps}).alphas_cumprod
        expected = [signal((i + 1) / steps) / signal(0) for i in range(steps - 1)]
        assert table[:-1].tolist() == pytest.approx(expected, rel=1e-9)
        assert float(table[-1] / table[-2]) == pytest.approx(1e-3)  # betas end at 0.999, not at 1


def test_a_table_is_linear_in_log_snr_between_steps_and_falls_to_data_below_the_first():
    schedule = Discrete.from_betas()
    between = schedule.log_snr(torch.tensor([0.5, 0.5003, 0.501], dtype=torch.float64))
    torch.testing.assert_close(between[1], 0.7 * between[0] + 0.3 * between[2], rtol=1e-12, atol=0)
    alpha, sigma, *_ = schedule(torch.tensor([0.00025, 0.0005, 0.001], dtype=torch.float64))
    ratio = (sigma / alpha) ** 2
    torch.testing.assert_close(
        ratio / ratio[-1], torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_table_may_end_in_no_signal_at_all():
    level = Discrete(torch.tensor([0.9, 0.5, 0.0]))(torch.tensor([0.0, 2 / 3, 1.0], dtype=torch.float64))
    assert all(part.isfinite().all() for part in level)
    assert level.alpha[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("table", [[0.5], [0.5, 0.9], [0.9, 0.5, -0.1], [1.0, 0.5], [[0.9, 0.5]], [0.9, float("nan")]])
def test_other_tables_are_refused(table):
    with pytest.raises(ValueError, match="one decreasing row"):
        Discrete(torch.tensor(table))


def test_one_time_a_row_broadcasts_and_other_counts_are_refused():
    x = torch.zeros(3, 2, 4, 4)
    level = Linear()(torch.tensor([0.1, 0.2, 0.3])).like(x)
    assert level.sigma.shape == (3, 1, 1, 1)
    assert level.like(x).sigma.shape == (3, 1, 1, 1)
    assert Linear()(0.5).like(x.double()).sigma.dtype == torch.float64
    assert torch.equal((level.sigma + x)[:, 0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match=r"t must be \(\) or \(3,\), got \(2,\)"):
        Linear()(torch.tensor([0.1, 0.2])).like(x)


def test_an_expanded_time_is_as_good_as_a_full_one():
    t = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(Cosine()(t.expand(4)).dsigma, Cosine()(t.repeat(4)).dsigma)


@pytest.mark.parametrize("schedule", [*ALL, VariancePreserving(0.2, 12.0), VarianceExploding(0.01, 50.0)], ids=repr)
def test_descriptions_come_back_as_the_same_schedule(schedule):
    rebuilt = build(describe(schedule))
    assert type(rebuilt) is type(schedule)
    for got, want in zip(rebuilt(T), schedule(T), strict=True):
        assert torch.equal(got, want)


class Foreign(Schedule):
    """A path that no kind names, with data at t = 0 and noise at t = 1: 1 - alpha² = sigma², alpha = 1 - t."""

    def coefficients(self, t):
        return 1 - t, (1 - (1 - t) ** 2).clamp_min(0).sqrt()


def test_a_foreign_schedule_is_described_by_numbers():
    rebuilt, t = build(describe(Foreign())), torch.linspace(0.001, 0.999, 997, dtype=torch.float64)
    assert (rebuilt.log_snr(t) - Foreign().log_snr(t)).abs().max() < 5e-4
    for got, want in zip(rebuilt(t)[:2], Foreign()(t)[:2], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert describe(build(describe(rebuilt))) == describe(rebuilt)  # a table of a table is that table
    alpha, sigma = rebuilt.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(sigma, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "tabulated", "times": [0, 1], "log_snr": [0, 1], "log_norm": [0, 0]}, "log_snr falling"),
        ({"kind": "tabulated", "times": [0, 0.5], "log_snr": [1, 0], "log_norm": [0, 0]}, "times from 0 up to 1"),
        ({"kind": "tabulated", "times": [0, 1], "log_snr": [1, 0], "log_norm": [0]}, "alike in length"),
        ({"kind": "sigmoid"}, "unknown schedule kind 'sigmoid': choose from linear"),
        ({}, "unknown schedule kind None"),
        ({"kind": "linear", "beta": 1.0}, "a linear schedule does not take beta"),
        ({"kind": "variance-preserving", "beta_min": "small"}, "takes numbers, got beta_min = 'small'"),
        ({"kind": "discrete", "alphas_cumprod": [0.1, 0.2]}, "one decreasing row"),
        ({"kind": "discrete", "betas": "square"}, "unknown betas 'square': choose from linear, cosine, sigmoid"),
        ("linear", "a mapping such as"),
    ],
)
def test_wrong_descriptions_are_one_line(description, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(description)
    assert "\n" not in str(caught.value)


def test_ddpms_table_by_default():
    found = Discrete.from_betas().alphas_cumprod
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(found, (1 - betas).cumprod(0), rtol=1e-12, atol=0)


def test_a_repeated_last_entry_of_next_to_nothing_stands_for_no_signal():
    end = 2**-24
    assert Discrete(torch.tensor([0.9, 0.5, end, end], dtype=torch.float64)).alphas_cumprod.tolist() == [
        0.9,
        0.5,
        end,
        0.0,
    ]
    with pytest.raises(ValueError, match="one decreasing row"):
        Discrete(torch.tensor([0.9, 0.5, 1.5 * end, 1.5 * end], dtype=torch.float64))


def test_a_table_of_a_flow_ends_at_an_snr_of_twenty_decades():
    _, log_snr, _ = Tabulated.of(Linear(), knots=5).table
    assert log_snr.tolist() == [46.0, 23.0, 0.0, -23.0, -46.0]
