"""The level network and its estimator: against closed forms where they exist, and on the bundled assets."""

import math

import pytest
import torch

from noiseshift.data import ASSETS, Images, reference
from noiseshift.diffusion.schedules import Cosine, Discrete, Linear, VarianceExploding
from noiseshift.estimators.network import Network
from noiseshift.estimators.posterior import Posterior
from noiseshift.networks.level import LevelConfig, LevelNetwork, mixture_log_density, negative_log_likelihood
from noiseshift.training.level_estimator import EstimatorTraining, train_estimator

FLAT = Images(torch.full((16, 1, 8, 8), 128, dtype=torch.uint8))
SHORT = EstimatorTraining(steps=6, batch=8, width=4)


def answering(mean, sd, schedule, **options):
    """An estimator whose network says N(mean, sd²) in log-SNR whatever it sees."""
    network = LevelNetwork(LevelConfig(width=4, components=1))
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    network.head[-1].bias.data = torch.tensor([0.0, mean, math.log(sd)])
    return Network(network, schedule, **options)


def untrained(channels=1):
    torch.manual_seed(0)
    return Network(LevelNetwork(LevelConfig(channels, width=4)), Linear())


def noised(images, schedule, t, seed=0):
    x0 = images.floats
    level = schedule(torch.tensor(t)).like(x0)
    return level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))


def test_mixture_density_is_that_of_its_gaussians():
    parts = (torch.tensor([[0.3, 0.7]]).log(), torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.5, 1.5]]).log())
    grid = torch.linspace(-15, 15, 4001)
    density = mixture_log_density(parts, grid).exp()[0]
    normal = torch.distributions.Normal(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 1.5]))
    exact = (torch.tensor([0.3, 0.7]) * normal.log_prob(grid[:, None]).exp()).sum(-1)
    torch.testing.assert_close(density, exact)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-5)
    assert negative_log_likelihood(parts, grid[1000:1001]) == pytest.approx(-float(exact[1000].log()), rel=1e-5)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Discrete.from_betas(), VarianceExploding()])
def test_posterior_is_the_networks_gaussian_in_log_snr(schedule):
    centre = float(schedule.log_snr(torch.tensor(0.4)))
    estimator = answering(centre, 0.3, schedule)
    posterior = estimator(torch.zeros(2, 1, 8, 8))
    log_snr = schedule.log_snr(posterior.times)
    mean = posterior.expect(log_snr)
    sd = (posterior.expect(log_snr**2) - mean**2).sqrt()
    assert posterior.times.shape == (512,)
    torch.testing.assert_close(mean, torch.full_like(mean, centre), atol=2e-3, rtol=0)
    torch.testing.assert_close(sd, torch.full_like(sd, 0.3), atol=2e-3, rtol=0)
    torch.testing.assert_close(posterior.quantile(0.5), torch.full_like(mean, 0.4), atol=1e-3, rtol=0)


def test_log_prob_is_a_density_in_time():
    # Linear: log-SNR = 2 log((1 - t) / t), so |d log-SNR / dt| = 2 / (t (1 - t)).
    estimator = answering(1.0, 0.5, Linear())
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    found = estimator.log_prob(torch.zeros(999, 1, 8, 8), t)
    log_snr = 2 * torch.log((1 - t) / t)
    exact = -0.5 * ((log_snr - 1) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi)) + torch.log(2 / (t * (1 - t)))
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)
    assert float(torch.trapezoid(found.double().exp(), t)) == pytest.approx(1, abs=1e-3)
    one = estimator.log_prob(torch.zeros(3, 1, 8, 8), torch.tensor(0.5))
    torch.testing.assert_close(one, found[499].expand(3), atol=1e-4, rtol=1e-4)


def test_the_gradient_of_log_prob_is_its_slope():
    estimator = untrained(3)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 9, 7, generator=generator).requires_grad_()
    t = torch.tensor([0.3, 0.7])
    (slope,) = torch.autograd.grad(estimator.log_prob(x, t).sum(), x)
    direction = slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        ahead, behind = (estimator.log_prob(x + h * direction, t) for h in (0.02, -0.02))
    torch.testing.assert_close((ahead - behind) / 0.04, slope.flatten(1).norm(dim=1), rtol=0.01, atol=0)


@torch.no_grad()
def test_brightness_is_not_taken_for_noise():
    network = LevelNetwork(LevelConfig(2, width=4))
    flat = torch.tensor([-1.0, 0.5])[:, None, None].expand(1, 2, 8, 8)
    assert float(network._energy(flat).max()) < 1e-12
    noise = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network._energy(flat + 0.1 * noise), 0.01 * network._energy(noise), rtol=1e-3, atol=1e-6)


def test_training_finds_the_exact_posterior():
    """Every image the same, so x is Gaussian and p(t | x) is known."""
    schedule, constant = Linear(), float(FLAT.floats[0, 0, 0, 0])
    estimator = train_estimator(FLAT, schedule, EstimatorTraining(steps=250, batch=64, width=8, learning_rate=1e-2))
    level = schedule(estimator.times)
    for t in (0.8, 0.5, 0.2, 0.1):
        x = noised(Images(FLAT.pixels[:1].expand(200, 1, 8, 8)), schedule, t)
        z = (x.double().flatten(1)[:, None] - level.alpha[:, None] * constant) / level.sigma[:, None]
        exact = Posterior.from_log_density(estimator.times, -0.5 * z.square().sum(-1) - 64 * level.sigma.log())
        found = estimator(x)
        assert float(((found.mean - exact.mean) / exact.std).square().mean().sqrt()) < 0.45
        assert 0.8 < float((found.std / exact.std).mean()) < 1.3


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path):
    def interrupt(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    whole = train_estimator(FLAT, Linear(), SHORT)
    with pytest.raises(KeyboardInterrupt):
        train_estimator(FLAT, Linear(), SHORT, folder=tmp_path, every=2, report=interrupt)
    steps = []
    resumed = train_estimator(FLAT, Linear(), SHORT, folder=tmp_path, report=lambda step, loss: steps.append(step))
    assert steps == [4, 5]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"other settings .*: give another folder"):
        train_estimator(FLAT, Linear(), EstimatorTraining(steps=6, batch=4, width=4), folder=tmp_path)


def test_training_leaves_the_global_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_estimator(FLAT, Linear(), EstimatorTraining(steps=1, batch=2, width=4))
    assert torch.equal(torch.rand(1), expected)


def test_training_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="lower the learning rate"):
        train_estimator(FLAT, Linear(), EstimatorTraining(steps=6, batch=8, width=4, learning_rate=1e30))
    with pytest.raises(ValueError, match="H, W ≥ 4"):
        train_estimator(Images(FLAT.pixels[:, :, :3]), Linear(), SHORT)


@pytest.mark.parametrize("schedule", [Linear(), Discrete.from_betas(1e-3, 0.1, 50)])
def test_save_and_load(tmp_path, schedule):
    torch.manual_seed(0)
    estimator = Network(LevelNetwork(LevelConfig(3, width=4, components=2)), schedule, card={"data": "none"})
    estimator.save(tmp_path / "level.safetensors")
    loaded = Network.load(tmp_path / "level.safetensors")
    t = torch.linspace(0.01, 1, 7)
    assert loaded.card == {"data": "none"}
    assert torch.equal(loaded.schedule.log_snr(t), schedule.log_snr(t))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # Stored in half precision: 5e-4 of every weight.
    torch.testing.assert_close(loaded(x).mean, estimator(x).mean, atol=2e-3, rtol=0)


def test_files_that_are_no_estimator_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="train_estimator"):
        Network.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged or no level estimator"):
        Network.load(path)
    with pytest.raises(ValueError, match="damaged or no level estimator"):
        Network.load(ASSETS / "fashion-classifier.safetensors")
    estimator = untrained()
    estimator.network.config = LevelConfig(width=5)
    estimator.save(path, overwrite=True)
    with pytest.raises(ValueError, match="of another shape than its card says"):
        Network.load(path)


def test_states_that_cannot_be_read_are_refused():
    estimator = untrained()
    x = torch.zeros(3, 1, 8, 8)
    x[1, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match="1 of 3 states hold NaN or infinity"):
        estimator(x)
    for shape in ((2, 3, 8, 8), (2, 1, 3, 8), (2, 64)):
        with pytest.raises(ValueError, match=r"reads \(B, 1, H, W\).*train one for this data"):
            estimator(torch.zeros(shape))


@pytest.mark.parametrize("name", ["sit", "ddpm"])
def test_the_bundled_estimators_read_held_out_images(name):
    estimator = Network.load(ASSETS / f"fashion-{name}-estimator.safetensors")
    assert type(estimator.schedule) is {"sit": Linear, "ddpm": Discrete}[name]
    images = reference()[:200]
    for t, limit in ((0.5, 0.07), (0.3, 0.02), (0.1, 0.01)):
        posterior = estimator(noised(images, estimator.schedule, t))
        error = posterior.mean - t
        assert float(error.square().mean().sqrt()) < limit
        # It knows how wrong it is: errors in its own standard deviations have about unit size.
        assert 0.5 < float((error / posterior.std).square().mean().sqrt()) < 1.6
