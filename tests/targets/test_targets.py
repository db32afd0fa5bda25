"""Exact targets against torch.distributions, dense linear algebra, autograd and brute force."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from noiseshift.diffusion.guidance import classifier_free, noise_awareness
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL, Branch, Guided, Model
from noiseshift.diffusion.schedules import Linear, VariancePreserving
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.targets import Empirical, Gaussian, GaussianMixture, LowRank

DIM, COMPONENTS, RANK, ROWS = 6, 3, 2, 5
FORMS = ["gaussian", "full", "diagonal", "isotropic", "low-rank", "complete-rank", "empirical"]
SCHEDULES = [Linear(), VariancePreserving()]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full_covs():
    factors = draw(COMPONENTS, DIM, DIM, seed=1)
    return factors @ factors.mT / DIM + 0.05 * torch.eye(DIM, dtype=torch.float64)


def mixture(covs):
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5]), draw(COMPONENTS, DIM), covs)


VARIANCES = draw(COMPONENTS, DIM, seed=2).abs() + 0.05
FACTORS = {"low-rank": draw(COMPONENTS, DIM, RANK, seed=3), "complete-rank": draw(COMPONENTS, DIM, DIM + 2, seed=3)}


def make(form):
    makers = {
        "gaussian": lambda: Gaussian(draw(DIM), full_covs()[0]),
        "full": lambda: mixture(full_covs()),
        "diagonal": lambda: mixture(VARIANCES),
        "isotropic": lambda: mixture(VARIANCES[:, 0]),
        "low-rank": lambda: mixture(LowRank(FACTORS["low-rank"], VARIANCES[:, 0])),
        "complete-rank": lambda: mixture(LowRank(FACTORS["complete-rank"], VARIANCES[:, 0])),
        "empirical": lambda: Empirical(draw(40, DIM, seed=4)),
    }
    return makers[form]()


@pytest.fixture(params=FORMS)
def target(request):
    return make(request.param)


def dense(form):
    """The covariances of `make(form)`, written out: (K, d, d)."""
    eye = torch.eye(DIM, dtype=torch.float64)
    if form in FACTORS:
        return FACTORS[form] @ FACTORS[form].mT + VARIANCES[:, 0, None, None] * eye
    return {
        "gaussian": full_covs()[:1],
        "full": full_covs(),
        "diagonal": VARIANCES[:, :, None] * eye,
        "isotropic": VARIANCES[:, :1, None] * eye,
    }[form]


def brute_log_prob(form, x, level):
    """By torch.distributions, at a level with scalar parts."""
    target, noise = make(form), level.sigma**2 * torch.eye(DIM, dtype=torch.float64)
    distributions = [
        MultivariateNormal(level.alpha * m, level.alpha**2 * c + noise)
        for m, c in zip(target.means, dense(form), strict=True)
    ]
    return torch.stack(
        [distribution.log_prob(x) + w.log() for distribution, w in zip(distributions, target.weights, strict=True)]
    ).logsumexp(0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_score_is_the_gradient_of_the_log_density(target, schedule):
    x, t = draw(ROWS, DIM, seed=5).requires_grad_(), torch.linspace(0.05, 0.95, ROWS, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(target.log_prob(x, schedule(t)).sum(), x)
    torch.testing.assert_close(target.model(schedule)(x, t).score, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_prediction_splits_the_state_into_signal_and_noise(target, schedule):
    x, t = draw(ROWS, DIM, seed=5), torch.linspace(0.01, 0.99, ROWS, dtype=torch.float64)
    prediction, level = target.model(schedule)(x, t), schedule(t).like(x)
    torch.testing.assert_close(level.alpha * prediction.x0 + level.sigma * prediction.eps, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS[:-1])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_log_prob_is_that_of_torch_distributions(form, t):
    target, x, level = make(form), draw(ROWS, DIM, seed=5), Linear()(torch.tensor(t, dtype=torch.float64))
    torch.testing.assert_close(target.log_prob(x, level), brute_log_prob(form, x, level), rtol=1e-10, atol=1e-10)


def test_one_component_is_a_gaussian_whichever_way_it_is_written():
    mean, factors = draw(DIM), draw(DIM, RANK, seed=3)
    cov = factors @ factors.T + 0.1 * torch.eye(DIM, dtype=torch.float64)
    ways = [
        Gaussian(mean, cov),
        Gaussian(mean, LowRank(factors, torch.tensor(0.1))),
        GaussianMixture(torch.ones(1), mean[None], cov[None]),
    ]
    x, t = draw(ROWS, DIM, seed=5), torch.tensor(0.4, dtype=torch.float64)
    level = Linear()(t)
    distribution = MultivariateNormal(
        level.alpha * mean, level.alpha**2 * cov + level.sigma**2 * torch.eye(DIM).double()
    )
    solved = torch.linalg.solve(distribution.covariance_matrix, (x - distribution.mean).T).T
    for way in ways:
        torch.testing.assert_close(way.log_prob(x, level), distribution.log_prob(x), rtol=1e-6, atol=1e-6)
        prediction = way.model(Linear())(x, t)
        torch.testing.assert_close(prediction.x0, mean + level.alpha * solved @ cov, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(prediction.eps, level.sigma * solved, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["diagonal", "isotropic", "low-rank", "complete-rank"])
def test_short_forms_equal_their_full_covariance(form):
    short, full, x = make(form), mixture(dense(form)), draw(ROWS, DIM, seed=5)
    for t in (torch.tensor(0.2, dtype=torch.float64), torch.linspace(0.1, 0.9, ROWS, dtype=torch.float64)):
        ours = short.model(Linear()).predict(x, t, None, (FULL, NOISE_UNCONDITIONAL))
        theirs = full.model(Linear()).predict(x, t, None, (FULL, NOISE_UNCONDITIONAL))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close((a.x0, a.eps), (b.x0, b.eps), rtol=1e-9, atol=1e-9)


def test_both_ends_are_finite_and_exact(target):
    x, model = draw(ROWS, DIM, seed=5), target.model(Linear())
    data, noise = model(x, torch.tensor(0.0)), model(x, torch.tensor(1.0))
    mean = target.data.mean(0) if isinstance(target, Empirical) else target.weights @ target.means
    torch.testing.assert_close(noise.x0, mean.expand_as(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise.eps, x, rtol=1e-9, atol=1e-9)
    assert bool((data.eps == 0).all())
    nearest = target.data[torch.cdist(x, target.data).argmin(1)] if isinstance(target, Empirical) else x
    torch.testing.assert_close(data.x0, nearest, rtol=1e-9, atol=1e-9)


def test_a_direction_without_variance_is_finite_at_the_data():
    target = Gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    prediction = target.model(Linear())(draw(ROWS, 2), torch.tensor(0.0))
    assert bool((prediction.x0[:, 1] == 0).all() and (prediction.eps == 0).all())


def test_a_complete_low_rank_basis_leaves_nothing_outside():
    target, x = Gaussian(torch.zeros(DIM), LowRank(FACTORS["complete-rank"][0], torch.tensor(0.0))), draw(ROWS, DIM)
    cov = FACTORS["complete-rank"][0] @ FACTORS["complete-rank"][0].T
    distribution = MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), cov)
    torch.testing.assert_close(target.log_prob(x, Linear()(0.0)), distribution.log_prob(x), rtol=1e-9, atol=1e-9)


def test_posterior_over_t_is_bayes_rule():
    target, x = make("full"), draw(ROWS, DIM, seed=5)
    times = torch.linspace(0.1, 0.9, 31, dtype=torch.float64) ** 2
    density = torch.stack([brute_log_prob("full", x, Linear()(t)) for t in times], dim=1).exp()
    width = torch.cat([times[1:2] - times[:1], times[2:] - times[:-2], times[-1:] - times[-2:-1]]) / 2
    expected = density * width / (density * width).sum(1, keepdim=True)
    torch.testing.assert_close(target.estimator(Linear(), times)(x).prob, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["gaussian", "low-rank", "empirical"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradient_of_the_posterior_is_the_guidance_direction(form, schedule):
    target, x = make(form), draw(ROWS, DIM, seed=5).requires_grad_()
    model, index = target.model(schedule, blind="score"), 90
    t = model.posterior.times[index]
    (gradient,) = torch.autograd.grad(model.posterior(x).log_prob[:, index].sum(), x)
    full, uninformed = model.predict(x, t, None, (FULL, NOISE_UNCONDITIONAL))
    torch.testing.assert_close(full.score - uninformed.score, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["full", "low-rank", "empirical"])
@pytest.mark.parametrize("space", ["velocity", "epsilon", "x0", "score"])
def test_the_noise_unconditional_branch_is_the_posterior_average(form, space):
    target, x, times = make(form), draw(ROWS, DIM, seed=5), torch.linspace(0.05, 0.95, 21, dtype=torch.float64)
    model, t = target.model(Linear(), blind=space, times=times), torch.tensor(0.35, dtype=torch.float64)
    name = {"velocity": "velocity", "epsilon": "eps", "x0": "x0", "score": "score"}[space]
    prob = target.estimator(Linear(), times)(x).prob
    expected = sum(p[:, None] * getattr(model(x, s), name) for p, s in zip(prob.T, times, strict=True))
    (uninformed,) = model.predict(x, t, None, (NOISE_UNCONDITIONAL,))
    torch.testing.assert_close(getattr(uninformed, name), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(0.65 * uninformed.x0 + 0.35 * uninformed.eps, x, rtol=1e-9, atol=1e-9)


def test_posterior_mean_of_t_is_unbiased_and_its_width_honest():
    generator = torch.Generator().manual_seed(0)
    target = GaussianMixture(torch.ones(2), draw(2, 16), LowRank(draw(2, 16, 2, seed=3), torch.full((2,), 0.01)))
    n, estimator = 4000, target.estimator(Linear(), torch.linspace(0.05, 0.95, 181, dtype=torch.float64))
    t = 0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)
    x0 = target.sample(n, generator)
    level = Linear()(t).like(x0)
    posterior = estimator(level.alpha * x0 + level.sigma * torch.randn(n, 16, generator=generator, dtype=torch.float64))
    error = posterior.mean - t
    assert abs(float(error.mean())) < 3.3 * float(error.std()) / math.sqrt(n)
    ratio = (error / posterior.std) ** 2
    assert abs(float(ratio.mean()) - 1) < 3.3 * float(ratio.std()) / math.sqrt(n)
    assert 0.01 < float(posterior.std.mean()) < 0.1


def test_default_grid_resolves_the_narrow_posteriors_of_high_dimensions():
    dim, generator = 3072, torch.Generator().manual_seed(0)
    target = Gaussian(torch.zeros(dim, dtype=torch.float64), LowRank(draw(dim, 20) / 5, torch.tensor(1e-3)))
    x0 = target.sample(8, generator)
    x = 0.7 * x0 + 0.3 * torch.randn(8, dim, generator=generator, dtype=torch.float64)
    default = target.estimator(Linear())
    finer = time_grid(Linear(), 3 * len(default.times))
    torch.testing.assert_close(default(x).mean, target.estimator(Linear(), finer)(x).mean, rtol=0, atol=1e-6)


def test_low_rank_at_image_size_equals_the_diagonal_it_spells():
    dim, rank = 3072, 20
    factors = torch.zeros(2, dim, rank, dtype=torch.float64)
    factors[:, torch.arange(rank), torch.arange(rank)] = draw(2, rank)
    variances = (factors**2).sum(-1) + 0.01
    means = 0.01 * draw(2, dim)
    low_rank = GaussianMixture(torch.ones(2), means, LowRank(factors, torch.full((2,), 0.01, dtype=torch.float64)))
    diagonal, x, t = GaussianMixture(torch.ones(2), means, variances), 0.2 * draw(4, dim, seed=5), torch.tensor(0.2)
    torch.testing.assert_close(low_rank.log_prob(x, Linear()(t)), diagonal.log_prob(x, Linear()(t)), rtol=1e-10, atol=0)
    ours, theirs = low_rank.model(Linear())(x, t), diagonal.model(Linear())(x, t)
    torch.testing.assert_close((ours.x0, ours.eps), (theirs.x0, theirs.eps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_empirical_is_a_softmax_over_its_points(t):
    target, level = make("empirical"), Linear()(torch.tensor(t, dtype=torch.float64))
    x = level.alpha * target.data[:ROWS] + level.sigma * draw(ROWS, DIM, seed=5)
    log_each = torch.distributions.Normal(level.alpha * target.data, level.sigma).log_prob(x[:, None]).sum(-1)
    x0 = log_each.softmax(1) @ target.data
    prediction = target.model(Linear())(x, torch.tensor(t, dtype=torch.float64))
    torch.testing.assert_close(prediction.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps, (x - level.alpha * x0) / level.sigma, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target.log_prob(x, level), log_each.logsumexp(1) - math.log(40), rtol=1e-9, atol=1e-9)


def test_empirical_is_a_mixture_of_vanishing_width():
    empirical, x = make("empirical"), draw(ROWS, DIM, seed=5)
    points = GaussianMixture(torch.ones(40), empirical.data, torch.full((40,), 1e-14, dtype=torch.float64))
    t = torch.linspace(0.05, 0.95, ROWS, dtype=torch.float64)
    torch.testing.assert_close(
        empirical.log_prob(x, Linear()(t)), points.log_prob(x, Linear()(t)), rtol=1e-7, atol=1e-7
    )
    branches = (FULL, NOISE_UNCONDITIONAL)
    ours, theirs = (a.model(Linear()).predict(x, t, None, branches) for a in (empirical, points))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close((a.x0, a.eps), (b.x0, b.eps), rtol=1e-6, atol=1e-6)


def test_a_state_given_a_class_sees_only_its_points():
    data, labels = draw(40, DIM, seed=4), torch.arange(40) % 3
    # Enough noise that points of every class matter.
    x, t, cond = draw(4, DIM, seed=5), torch.tensor([0.7, 0.6, 0.8, 0.5]).double(), torch.tensor([0, 2, 1, 2])
    every = (FULL, UNCONDITIONAL, NOISE_UNCONDITIONAL, Branch(noise=False, condition=False))
    target = Empirical(data, labels)
    model = target.model(Linear())
    assert model.branches == frozenset(every)
    answers = model.predict(x, t, cond, every)
    plain = Empirical(data).model(Linear()).predict(x, t, None, (FULL, NOISE_UNCONDITIONAL))
    torch.testing.assert_close((answers[1].x0, answers[3].x0), (plain[0].x0, plain[1].x0))
    for row, label in enumerate(cond.tolist()):
        own = Empirical(data[labels == label])
        alone = own.model(Linear()).predict(x[row : row + 1], t[row], None, (FULL, NOISE_UNCONDITIONAL))
        torch.testing.assert_close(answers[0].x0[row], alone[0].x0[0])
        torch.testing.assert_close(answers[2].eps[row], alone[1].eps[0])
        read = target.log_prob(x[row : row + 1], Linear()(t[row]), cond[row : row + 1])
        torch.testing.assert_close(read, own.log_prob(x[row : row + 1], Linear()(t[row])))
    guided = Guided(model, classifier_free(1.0) + noise_awareness(0.5))(x, t, cond)
    mixed = 2.5 * answers[0].x0 - answers[1].x0 - 0.5 * answers[2].x0
    torch.testing.assert_close(guided.x0, mixed)


@pytest.mark.parametrize("form", ["full", "low-rank", "empirical", "labelled"])
def test_blocks_change_nothing(form, monkeypatch):
    target = Empirical(draw(40, DIM, seed=4), torch.arange(40) % 2) if form == "labelled" else make(form)
    x, cond = draw(7, DIM, seed=5), torch.arange(7) % 2
    times = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    model = target.model(Linear(), times=times)

    def answers():
        pairs = [model.predict(x, t, cond, (FULL, NOISE_UNCONDITIONAL)) for t in (times[3], times[:7])]
        states = [part for pair in pairs for p in pair for part in (p.x0, p.eps)]
        return [*states, model.posterior(x, cond).log_prob]

    whole = answers()
    for module in ("target", "empirical"):
        monkeypatch.setattr(f"noiseshift.targets.{module}.ENTRIES", 100)
    torch.testing.assert_close(answers(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["gaussian", "low-rank", "empirical"])
def test_forward_derivative_is_the_posterior_covariance(form):
    """d x0 / dx = alpha / sigma² Cov[x0 | x] is symmetric; a finite difference gives its product with a probe."""
    target, x, probe = make(form), draw(ROWS, DIM, seed=5), draw(ROWS, DIM, seed=6)
    model, t, h = target.model(Linear()), torch.linspace(0.3, 0.9, ROWS, dtype=torch.float64), 1e-5

    def velocity(state):
        return model(state, t).velocity

    _, slope = torch.func.jvp(velocity, (x,), (probe,))
    difference = (velocity(x + h * probe) - velocity(x - h * probe)) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-6)
    (_, back) = torch.func.vjp(velocity, x)
    torch.testing.assert_close(back(probe)[0], slope, rtol=1e-9, atol=1e-9)


def test_a_copy_on_a_device_answers_alike(target):
    x, level = draw(ROWS, DIM, seed=5), Linear()(torch.tensor(0.4))
    torch.testing.assert_close(target.to("cpu").log_prob(x, level), target.log_prob(x, level))


@pytest.mark.parametrize("kind", ["mixture", "empirical"])
def test_images_keep_their_shape_and_dtype(kind):
    images = draw(30, 1, 4, 4).float()
    flat = images.flatten(1)
    distribution = (
        Empirical(images) if kind == "empirical" else GaussianMixture(torch.ones(30), flat, torch.full((30,), 0.1))
    )
    model, x, t = distribution.model(Linear()), draw(3, 1, 4, 4, seed=5).float(), torch.tensor([0.2, 0.5, 0.8])
    assert isinstance(model, Model)
    for prediction in model.predict(x, t, None, (FULL, NOISE_UNCONDITIONAL)):
        assert prediction.x0.shape == prediction.eps.shape == x.shape
        assert prediction.x0.dtype == prediction.eps.dtype == prediction.velocity.dtype == torch.float32
    torch.testing.assert_close(model(x, t).x0.flatten(1), model(x.flatten(1), t).x0)
    posterior = distribution.estimator(Linear())(x)
    assert isinstance(posterior, Posterior)
    assert posterior.log_prob.dtype == distribution.log_prob(x, Linear()(t)).dtype == torch.float64


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_moments_of_the_target(form):
    target, n = make(form), 20000
    x = target.sample(n, torch.Generator().manual_seed(0))
    if isinstance(target, Empirical):
        mean, cov = target.data.mean(0), target.data.T.cov(correction=0)
    else:
        mean = target.weights @ target.means
        within = torch.einsum("k,kij->ij", target.weights, dense(form))
        cov = within + (target.weights * (target.means - mean).T) @ (target.means - mean)
    spread = cov.diagonal().max()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=float(4.5 * (spread / n).sqrt()))
    torch.testing.assert_close(x.T.cov(), cov, rtol=0, atol=float(4.5 * spread * math.sqrt(3 / n)))


@pytest.mark.parametrize("form", ["gaussian", "low-rank"])
def test_moments_are_those_of_the_noised_distribution(form):
    if form == "gaussian":
        target, cov = make(form), full_covs()[0]
    else:
        factors = draw(DIM, RANK, seed=3)
        target = Gaussian(draw(DIM), LowRank(factors, torch.tensor(0.1, dtype=torch.float64)))
        cov = factors @ factors.T + 0.1 * torch.eye(DIM, dtype=torch.float64)
    mean, spectrum = target.moments(Linear()(torch.tensor(0.3, dtype=torch.float64)))
    expected = torch.linalg.eigvalsh(0.49 * cov) + 0.09
    torch.testing.assert_close(mean, 0.7 * draw(DIM))
    torch.testing.assert_close(spectrum.sort().values, expected)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: GaussianMixture(torch.ones(2), draw(3, DIM), torch.ones(3)), "weights must be"),
        (lambda: GaussianMixture(torch.tensor([1.0, 0.0]), draw(2, DIM), torch.ones(2)), "positive"),
        (lambda: GaussianMixture(torch.ones(2), draw(2, DIM), torch.ones(3)), "covs must be"),
        (lambda: Gaussian(draw(DIM), -torch.ones(DIM)), "semi-definite"),
        (lambda: Gaussian(draw(DIM), draw(DIM, DIM)), "symmetric"),
        (lambda: Gaussian(draw(DIM), LowRank(draw(DIM + 1, 2), torch.tensor(0.1))), "LowRank must have"),
        (lambda: Empirical(draw(4, DIM), torch.arange(3)), "labels must be"),
        (lambda: Empirical(torch.empty(0, DIM)), "at least one"),
        (lambda: make("full").model(Linear(), blind="noise"), "blind must be"),
        (lambda: make("full").model(Linear())(draw(2, DIM + 1), torch.tensor(0.5)), "6 numbers each"),
        (lambda: make("full").model(Linear())(draw(4, DIM), torch.tensor([0.5, 0.4])), "t must be"),
        (
            lambda: make("full").model(Linear()).predict(draw(4, DIM), torch.tensor(0.5), None, (UNCONDITIONAL,)),
            "no class",
        ),
        (
            lambda: Empirical(draw(4, DIM), torch.arange(4)).model(Linear())(
                draw(1, DIM), torch.tensor(0.5), torch.tensor([7])
            ),
            "no point",
        ),
    ],
)
def test_errors_name_the_remedy(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
