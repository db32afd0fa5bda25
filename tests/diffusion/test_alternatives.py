"""Temporal score rescaling, wavelet and noise level correction: exact laws, and what their authors' code computes."""

import math

import pytest
import torch

import noiseshift as ns
from noiseshift.correction.alternatives import NoiseLevelCorrected, ScoreRescaled, TimeShifted, wavelet_correction
from noiseshift.correction.methods import score_rescaling, unguided, wavelets
from noiseshift.estimators.parts import haar, inverse_haar
from noiseshift.studies.correct_exact import correct_exact, fields, power_law

T = torch.tensor(0.4, dtype=torch.float64)


def isotropic(variance, dim=16):
    return ns.targets.Gaussian(torch.zeros(dim).double(), torch.full((dim,), variance).double())


@pytest.mark.parametrize("k", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("schedule", [ns.Linear(), ns.Cosine(), ns.VarianceExploding()])
def test_rescaled_scores_of_a_gaussian_are_those_of_one_of_another_variance(k, schedule):
    x = torch.randn(5, 16, dtype=torch.float64)
    found = ScoreRescaled(isotropic(0.25).model(schedule), k, spread=0.5)(x, T)
    exact = isotropic(0.25 / k).model(schedule)(x, T)
    torch.testing.assert_close(found.eps, exact.eps)
    torch.testing.assert_close(found.x0, exact.x0)
    plain = isotropic(0.25).model(schedule)(x, T)
    torch.testing.assert_close(found.unguided.eps, plain.eps, msg="estimators read the network's own answer")


def test_rescaling_at_the_ends_is_finite():
    for t in (0.0, 1.0):
        found = ScoreRescaled(isotropic(0.25).model(ns.Linear()), 2.0)(torch.randn(3, 16).double(), torch.tensor(t))
        assert bool(torch.isfinite(found.x0).all() and torch.isfinite(found.eps).all())


@pytest.mark.parametrize("words", [(0.0,), (-1.0,), (1.0, 0.0), (math.nan,)])
def test_a_rescaling_of_nothing_is_refused(words):
    with pytest.raises(ValueError, match="above 0"):
        score_rescaling(*words)


class Fixed:
    """A step's outcome, whatever its state."""

    def __init__(self, x):
        self.x = x

    def __call__(self, transition):
        return self.x


def test_wavelet_correction_is_that_of_its_authors():
    """Their dcw_double, with the orthonormal Haar transform written out as averages and differences of 2 x 2 blocks."""
    shape, low, high = (2, 1, 4, 6), 0.3, -0.2
    generator = torch.Generator().manual_seed(0)
    x, x0 = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    model = ns.wrap(lambda x, t, cond: x0, ns.Linear(), predicts="x0")
    times = torch.tensor([0.4, 0.2], dtype=torch.float64)
    *_, last = ns.sample(model, torch.zeros(shape).double(), times, update=wavelet_correction(Fixed(x), low, high))
    blocks = (x - x0).unfold(2, 2, 2).unfold(3, 2, 2)
    mean = blocks.mean((-1, -2)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    rest = (x - x0) - mean
    torch.testing.assert_close(last.x, x + low * 0.4 * mean + high * 0.6 * rest, atol=1e-6, rtol=1e-6)


def test_the_haar_transform_has_its_inverse():
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(inverse_haar(haar(x)), x)


def test_states_without_wavelets_are_refused_in_one_line():
    model = isotropic(0.25).model(ns.Linear())
    with pytest.raises(ValueError, match="even height and width") as caught:
        list(
            ns.sample(
                model,
                torch.randn(2, 16).double(),
                torch.tensor([0.4, 0.2]).double(),
                update=wavelet_correction(ns.euler, 0.1),
            )
        )
    assert "\n" not in str(caught.value)


def test_pictures_with_an_exact_model():
    """Coordinates are independent in the basis; the solver's shift is seen; zero scales change nothing; flat states have no row."""
    case = fields(8)
    drawn = case.draw(4000, torch.Generator().manual_seed(0)).flatten(1).double().numpy() @ case.basis
    assert drawn.var(0) == pytest.approx(case.moments.cov.diagonal(), rel=0.12)
    methods = [unguided(), wavelets(0.0), wavelets(0.05), score_rescaling(1.0)]
    table = correct_exact(case, ns.solver("em:6"), methods, paths=64).set_index("method")
    assert table.rms["dcw=0"] == table.rms["none"] > 0.01
    assert table.rms["tsr=1"] == pytest.approx(table.rms["none"], rel=1e-4)
    assert table.rms["dcw=0.05"] != table.rms["none"]
    assert "dcw=0.05" not in {*correct_exact(power_law(16), ns.solver("em:4"), methods[:3], paths=64).method}


def excess(share, schedule):
    """Reads 1 + share of the scheduled noise in every state."""

    def level(x, t, cond):
        wanted = (1 + share) * schedule(t.double()).sigma
        times = torch.linspace(0.001, 1, 20_000, dtype=torch.float64)
        return times[(schedule(times).sigma - wanted).abs().argmin()].expand(len(x))

    return level


@pytest.mark.parametrize("schedule", [ns.Linear(), ns.VariancePreserving()])
def test_a_corrected_prediction_is_the_exact_one_at_the_level_that_the_state_holds(schedule):
    share, variance, t = 0.2, 0.25, torch.tensor(0.2, dtype=torch.float64)
    level = schedule(t)
    x0, noise = variance**0.5 * torch.randn(8, 16).double(), torch.randn(8, 16).double()
    x = level.alpha * x0 + (1 + share) * level.sigma * noise
    found = NoiseLevelCorrected(isotropic(variance).model(schedule), excess(share, schedule))(x, t)
    spread = (1 + share) * level.sigma / level.alpha
    best = variance / (variance + spread**2) * x / level.alpha
    torch.testing.assert_close(found.x0, best, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(level.mix(found.x0, found.eps), x, msg="x0 and eps are of one state")


def test_states_that_hold_too_much_noise_end_at_the_datas_variance():
    """Its law: the excess is carried to the end and vanishes with the noise; without it the samples stay too wide."""
    schedule, share, variance = ns.Linear(), 0.3, 0.25
    model, times = isotropic(variance).model(schedule), torch.linspace(0.5, 0, 201).double()
    noise, x0 = torch.randn(2, 4000, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = schedule(times[0]).alpha * variance**0.5 * x0 + (1 + share) * schedule(times[0]).sigma * noise
    corrected = NoiseLevelCorrected(model, excess(share, schedule))
    final = {way: list(ns.sample(way, start, times))[-1].x.var().item() for way in (model, corrected)}
    assert final[corrected] == pytest.approx(variance, rel=0.02)
    assert final[model] > 1.3 * variance


def test_the_correction_leaves_out_the_first_levels():
    model, late = isotropic(0.25).model(ns.Linear()), torch.tensor(0.97).double()
    x = torch.randn(3, 16).double()
    torch.testing.assert_close(NoiseLevelCorrected(model, excess(0.1, ns.Linear()))(x, late).eps, model(x, late).eps)


@pytest.mark.parametrize("way", [NoiseLevelCorrected, TimeShifted])
def test_a_reading_asks_the_network_itself_where_a_method_asked_about_another_level(way):
    """The norm of a noise that was predicted for another level, or brought to one, is no reading of this state."""
    model, schedule = isotropic(0.25).model(ns.Linear()), ns.Linear()
    changed = way(model, excess(0.3, schedule)) if way is NoiseLevelCorrected else way(model, 0.4, 0.1)
    x = schedule(T).mix(0.5 * torch.randn(6, 16).double(), torch.randn(6, 16).double())
    real = 0.5 * torch.randn(400, 16).double()
    reader = ns.estimators.Residual(model, real, torch.stack([T]), generator=torch.Generator().manual_seed(0))
    plain, moved = (reader(x, step=ns.Step(0, T, x, way(x, T))) for way in (model, changed))
    assert not torch.allclose(model(x, T).eps, changed(x, T).eps)
    torch.testing.assert_close(plain.mean, moved.mean)
