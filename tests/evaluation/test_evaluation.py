"""Distances between image sets against closed forms and against torchmetrics on the same features."""

import numpy as np
import pandas as pd
import pytest
import torch

import noiseshift as ns
from noiseshift import evaluation
from noiseshift.data import ASSETS, reference
from noiseshift.evaluation import Features, Moments, frechet_distance, kernel


def gaussian(n, d=16, shift=0.0, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)) @ np.diag(np.linspace(0.2, 2, d)) + shift


def test_the_distance_of_diagonal_gaussians_has_a_closed_form():
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    b = Moments(np.ones(3), np.diag([4.0, 1.0, 0.25]))
    assert frechet_distance(a, b) == pytest.approx(3 + 1 + 1 + 0.25)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one extractor"):
        frechet_distance(a, Moments(np.zeros(2), np.eye(2)))


def test_distance_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 16

        def forward(self, x):
            return x.flatten(1)

    real, fake = (torch.from_numpy(gaussian(200, seed=s)).reshape(-1, 1, 4, 4) for s in (0, 1))
    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(1, 4, 4)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet_distance(*(Features("x", part.flatten(1).numpy()).moments for part in (real, fake)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_the_inception_score_is_the_whole_sets_in_any_order():
    uniform, sure = np.full((100, 10), 0.1), np.eye(10)[np.arange(100) % 10]
    assert evaluation.inception_score(uniform) == pytest.approx(1)
    assert evaluation.inception_score(sure) == pytest.approx(10)
    by_class = np.full((1000, 10), 0.01)
    by_class[np.arange(1000), np.arange(1000) // 100] = 0.91
    mixed = by_class[np.random.default_rng(0).permutation(1000)]
    expected = np.exp((by_class * np.log(by_class / by_class.mean(0))).sum(1).mean())
    assert evaluation.inception_score(by_class) == pytest.approx(expected)
    for one, other in zip(*(vars(evaluation.score_change(p)).values() for p in (by_class, mixed)), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize(
    "probs", [np.full((10, 1), 1.0), np.full((10, 4), np.nan), np.full((10, 4), 0.5), np.eye(4) * 2 - 0.25, np.ones(4)]
)
def test_what_are_no_probabilities_have_no_score(probs):
    with pytest.raises(ValueError, match="probabilities"):
        evaluation.inception_score(probs)


def test_the_scores_interval_holds_that_of_the_distribution():
    rng = np.random.default_rng(0)

    def probs(n):
        logits = rng.standard_normal((n, 10)) + 3 * np.eye(10)[rng.integers(0, 10, n)]
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    truth = evaluation.inception_score(probs(500_000))
    found = [evaluation.score_change(probs(200)) for _ in range(200)]
    assert 180 <= sum(each.low <= truth <= each.high for each in found) <= 198
    assert abs(np.mean([each.value for each in found]) - truth) < 0.02


def test_the_kernel_distance_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) + 1
    pairs = {name: (x @ y.T / 3 + 1) ** 3 for name, (x, y) in {"aa": (a, a), "bb": (b, b), "ab": (a, b)}.items()}
    within = [(pairs[k].sum() - np.trace(pairs[k])) / (n * (n - 1)) for k, n in (("aa", 7), ("bb", 5))]
    assert evaluation.kernel_distance(a, b) == pytest.approx(sum(within) - 2 * pairs["ab"].mean())


def test_the_kernel_distance_does_not_depend_on_its_blocks(monkeypatch):
    a, b = gaussian(50, seed=0), gaussian(70, seed=1)
    whole = evaluation.kernel_change(a, b)
    monkeypatch.setattr("noiseshift.evaluation.kernel.BLOCK", 16)
    parts = evaluation.kernel_change(a, b)
    np.testing.assert_allclose(list(vars(parts).values()), list(vars(whole).values()), rtol=1e-9)


def test_a_reference_is_compared_with_itself_once(monkeypatch):
    """Each further set costs its own pairs and those with the reference, and reads the same distance."""
    a, b = gaussian(50, seed=0), gaussian(70, seed=1)
    reference = evaluation.Features("toy", b)
    kept = reference.kernel_within
    assert evaluation.kernel_change(a, b, within=kept) == evaluation.kernel_change(a, b)
    asked = []
    within = kernel.sums_within
    monkeypatch.setattr(kernel, "sums_within", lambda values: asked.append(len(values)) or within(values))
    tables = [evaluation.evaluate(evaluation.Features("toy", a), reference) for _ in range(2)]
    assert asked == [50, 50]
    pd.testing.assert_frame_equal(*tables)


def test_the_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    a, b = gaussian(300, seed=0), gaussian(300, shift=0.2, seed=1)
    assert evaluation.kernel_distance(a, b) == pytest.approx(float(poly_mmd(*map(torch.from_numpy, (a, b)))), rel=1e-6)


@pytest.mark.parametrize(("shift", "least"), [(0.0, 185), (0.3, 180)])
def test_the_kernel_distances_interval_holds_that_of_the_distributions(shift, least):
    """The truth for x ~ N(m, 1), y ~ N(0, 1) in d dimensions: E(x·y/d + 1)³ by moments."""
    d, rng = 4, np.random.default_rng(0)

    def mean_cube(a, b):
        square = (d + d * a**2 + d * b**2 + (d * a * b) ** 2) / d**2
        cube = sum(
            (a**3 + a * ((i == j) + (j == k) + (i == k))) * (b**3 + b * ((i == j) + (j == k) + (i == k)))
            for i in range(d)
            for j in range(d)
            for k in range(d)
        )
        return 1 + 3 * a * b + 3 * square + cube / d**3

    truth = mean_cube(shift, shift) + mean_cube(0, 0) - 2 * mean_cube(shift, 0)
    found = [
        evaluation.kernel_change(shift + rng.standard_normal((200, d)), rng.standard_normal((300, d)))
        for _ in range(200)
    ]
    assert least <= sum(each.low <= truth <= each.high for each in found)
    assert np.mean([each.high - each.low for each in found]) > 0.01


def test_precision_and_recall_of_sets_that_cover_one_another():
    real = gaussian(200)
    assert all(part.all() for part in evaluation.precision_recall(real, real))
    assert not any(part.any() for part in evaluation.precision_recall(real, real + 100))
    narrow = real[:100] * 0.01
    precision, recall = evaluation.precision_recall(real, narrow)
    assert precision.mean() > recall.mean()


@pytest.mark.parametrize("spread", [1.0, 0.6])
def test_the_interval_of_precision_holds_its_mean_over_draws_of_both_sets(spread):
    rng = np.random.default_rng(0)

    def draw():
        return rng.standard_normal((200, 4)) * spread, rng.standard_normal((150, 4))

    truth = np.mean([evaluation.precision_recall(real, fake)[0].mean() for fake, real in (draw() for _ in range(150))])
    found = [evaluation.coverage_change(*draw()) for _ in range(60)]
    assert sum(each.low <= truth <= each.high for each in found) >= 52
    fake, real = draw()
    precision, recall = evaluation.precision_recall(real, fake)
    assert evaluation.coverage_change(fake, real).value == precision.mean()
    assert evaluation.coverage_change(real, fake).value == recall.mean()


def test_shares_of_all_and_none_have_an_interval():
    real = gaussian(200)
    for points, ends in ((real, (0.97, 1.0)), (real + 100, (0.0, 0.03))):
        found = evaluation.coverage_change(points, real)
        assert found.value in ends
        assert ends[0] - 0.02 <= found.low <= found.value <= found.high <= ends[1] + 0.02
        assert found.high > found.low


def test_an_evaluation_names_its_extractor_and_holds_its_values():
    features = Features("fashion", gaussian(400, seed=1), np.random.default_rng(0).dirichlet(np.ones(10), 400))
    table = evaluation.evaluate(features, Features("fashion", gaussian(400))).set_index("metric")
    assert list(table.index) == [
        *("FD-fashion", "KD-fashion", "precision", "recall", "density", "coverage"),
        "IS-fashion",
    ]
    assert (table.loc[["density", "coverage"]].remark == "no interval").all()
    table = table.drop(["density", "coverage"])
    assert bool(((table.low <= table.value) & (table.value <= table.high) & (table.low < table.high)).all())
    assert table.plain["FD-fashion"] > table.value["FD-fashion"]
    assert evaluation.distance_name("inception") == "FID"
    with pytest.raises(ValueError, match="measure the count"):
        evaluation.evaluate(Features("fashion", gaussian(16)), features.moments)
    assert len(evaluation.evaluate(Features("x", gaussian(16)), features.moments, allow_small=True)) == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_no_value_lies_outside_its_interval(seed, shift):
    rng = np.random.default_rng(seed)
    features = Features("x", rng.standard_normal((80, 12)) + shift, rng.dirichlet(np.ones(5), 80))
    for real in (Features("x", rng.standard_normal((80, 12))), Moments(np.zeros(12), np.eye(12))):
        table = evaluation.evaluate(features, real).query("low == low")
        assert bool(((table.low <= table.value) & (table.value <= table.high)).all())
        assert bool((table.value >= 0).where(~table.metric.str.startswith("KD"), True).all())


def test_too_few_samples_for_an_interval_have_none():
    few = evaluation.evaluate(Features("x", gaussian(63)), Features("x", gaussian(500, seed=1))).iloc[0]
    assert few.value == few.plain
    assert np.isnan([few.low, few.high]).all()
    assert "fewer than 4 times 16" in few.remark
    few = evaluation.evaluate(Features("x", gaussian(500)), Features("x", gaussian(63, seed=1))).iloc[0]
    assert np.isnan(few.low)
    enough = evaluation.evaluate(Features("x", gaussian(64)), Features("x", gaussian(64, seed=1))).iloc[0]
    assert enough.low < enough.high
    change = evaluation.paired_change(
        Features("x", gaussian(40)), Features("x", 3 * gaussian(40)), Moments(np.zeros(16), np.eye(16))
    )
    assert np.isnan(change.low)
    assert not change.resolved


@pytest.mark.parametrize(
    ("values", "reference", "message"),
    [
        (gaussian(9), gaussian(50), "9 samples are too few"),
        (gaussian(50), gaussian(9), "9 samples are too few"),
        (np.full((50, 16), np.nan), gaussian(50), "NaN"),
        (gaussian(50), np.full((50, 16), np.inf), "NaN"),
        (gaussian(50), gaussian(50, d=8), "one extractor"),
    ],
)
def test_features_that_have_no_distance_are_refused(values, reference, message):
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(Features("x", values), Features("x", reference))


def test_features_of_two_extractors_are_refused():
    with pytest.raises(ValueError, match="features of a and b"):
        evaluation.evaluate(Features("a", gaussian(50)), Features("b", gaussian(50)))


def test_a_reference_of_statistics_counts_as_exact_and_that_is_said(caplog):
    features = Features("x", gaussian(100))
    for n, warned in ((999, True), (1000, False), (None, False)):
        caplog.clear()
        row = evaluation.evaluate(features, Moments(np.zeros(16), np.eye(16), n)).iloc[0]
        assert row.remark == "reference counted as exact"
        assert ("not in the interval" in caplog.text) == warned


def test_the_interval_covers_the_distance_of_the_distributions():
    """Two Gaussians at a known distance; FD of a sample is biased up, its interval is not."""
    exact = Moments(np.zeros(8), np.eye(8))
    rng = np.random.default_rng(0)
    rows = [evaluation.evaluate(Features("x", rng.standard_normal((300, 8)) + 0.4), exact).iloc[0] for _ in range(60)]
    covered = sum(row.low <= 8 * 0.16 <= row.high for row in rows)
    assert covered >= 52  # binom(60, 0.95) is above in 99.6 % of cases
    assert np.mean([row.plain for row in rows]) > 8 * 0.16 + 0.03  # the plain distance is off by more than chance
    assert abs(np.mean([row.value for row in rows]) - 8 * 0.16) < 0.03


def test_the_interval_covers_where_the_reference_was_drawn_too():
    rng, held = np.random.default_rng(0), []
    for _ in range(60):
        features, real = (Features("x", rng.standard_normal((n, 8)) + m) for n, m in ((300, 0.4), (200, 0.0)))
        found = evaluation.jackknife(features, real).change()
        held.append(found.low <= 8 * 0.16 <= found.high)
    assert sum(held) >= 52


def test_the_interval_covers_at_four_samples_a_feature():
    """What halves say of the bias of order 1/n² is needed here: without it about 60 % are held."""
    d, rng, held = 96, np.random.default_rng(0), []
    spread = np.linspace(0.5, 1.5, d)
    truth = ((spread - 1) ** 2).sum()
    for _ in range(25):
        found = evaluation.jackknife(
            Features("x", spread * rng.standard_normal((4 * d, d))), Moments(np.zeros(d), np.eye(d))
        )
        held.append(found.change().low <= truth <= found.change().high)
    assert sum(held) >= 21


def test_paired_changes_see_what_independent_ones_do_not():
    base = gaussian(500)
    better, same = Features("x", base), Features("x", base.copy())
    worse = Features("x", base * 1.05)
    exact = Moments(np.zeros(16), np.diag(np.linspace(0.2, 2, 16) ** 2))
    assert evaluation.paired_change(same, better, exact).value == 0
    change = evaluation.paired_change(worse, better, exact)
    assert change.low > 0
    assert change.resolved
    with pytest.raises(ValueError, match="same number"):
        evaluation.paired_change(Features("x", base[:100]), better, exact)


def test_the_bundled_classifier_tells_real_images_from_noise():
    extractor = evaluation.ClassifierFeatures()
    images = reference().pixels[:400]
    real = evaluation.load_reference(ASSETS / "fashion-statistics.npz", extractor)
    held_out = evaluation.extract(images, extractor)
    assert held_out.extractor == "fashion"
    noise = evaluation.extract(torch.randint(0, 256, images.shape, dtype=torch.uint8), extractor)
    near, far = (frechet_distance(f.moments, real) for f in (held_out, noise))
    assert near < 0.2 * far
    alike = evaluation.extract(images, extractor, batch=64)
    np.testing.assert_allclose(alike.values, held_out.values, atol=1e-4)


def test_references_are_read_from_statistics_and_from_pictures(tmp_path):
    extractor = evaluation.ClassifierFeatures()
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(128), sigma=np.eye(128))
    assert evaluation.load_reference(tmp_path / "statistics.npz", extractor).n is None
    np.savez(tmp_path / "samples.npz", arr_0=reference().pixels[:20].permute(0, 2, 3, 1).numpy())
    assert len(evaluation.load_reference(tmp_path / "samples.npz", extractor)) == 20
    with pytest.raises(FileNotFoundError, match="give a folder"):
        evaluation.load_reference(tmp_path / "nothing", extractor)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_any_module_is_an_extractor(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 5))
    images = reference().pixels[:8]
    traced = torch.jit.trace(module, torch.zeros(1, 1, 28, 28))
    traced.save(str(tmp_path / "mine.pt"))
    ours = evaluation.extract(images, evaluation.ModuleFeatures(module, "mine"))
    theirs = evaluation.extract(images, evaluation.ModuleFeatures(tmp_path / "mine.pt", trust=True))
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-6)
    assert ours.extractor == theirs.extractor == "mine"
    with pytest.raises(FileNotFoundError, match="TorchScript"):
        evaluation.ModuleFeatures(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="--trust it"):
        evaluation.ModuleFeatures(tmp_path / "mine.pt")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "mine.pt").read_bytes()[:900])
    with pytest.raises(ValueError, match="damaged or no TorchScript file"):
        evaluation.ModuleFeatures(tmp_path / "damaged.pt", trust=True)


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(3), "sigma": np.zeros((2, 2))},
        {"mu": np.zeros((3, 1)), "sigma": np.eye(3)},
        {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
        {"mu": np.zeros(3), "sigma": np.eye(3), "n": 1},
        {"mu": np.array(["a"]), "sigma": np.eye(1)},
        {"mu": np.array([None]), "sigma": np.eye(1)},
    ],
)
def test_statistics_that_are_none_are_refused_in_one_line(arrays, tmp_path):
    np.savez(tmp_path / "statistics.npz", **arrays)
    with pytest.raises(ValueError, match=r"statistics\.npz") as caught:
        evaluation.load_reference(tmp_path / "statistics.npz", evaluation.ClassifierFeatures())
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_file_called_inception_does_not_make_fid(tmp_path):
    module = torch.nn.Flatten()
    for name in ("inception.pt", "Inception.torchscript", "fashion.pt"):
        torch.jit.trace(module, torch.zeros(1, 1, 2, 2)).save(str(tmp_path / name))
        found = evaluation.ModuleFeatures(tmp_path / name, trust=True)
        assert evaluation.distance_name(found.name) == f"FD-{name}"


def test_inception_without_its_library_names_the_remedy():
    pytest.importorskip("torch")
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"noiseshift\[fid\]"):
            ns.evaluation.InceptionFeatures()


def test_too_few_samples_for_an_interval_are_said_before_they_are_drawn(caplog):
    reference = Moments(np.zeros(16), np.eye(16), 5000)
    evaluation.warn_of_no_interval(64, reference)
    assert not caplog.records
    evaluation.warn_of_no_interval(63, reference)
    assert "take --samples 64 or more" in caplog.text
    # It is the number from which there is one.
    found = [evaluation.evaluate(Features("x", gaussian(n)), reference).iloc[0] for n in (63, 64)]
    assert [bool(np.isfinite(row.low)) for row in found] == [False, True]
