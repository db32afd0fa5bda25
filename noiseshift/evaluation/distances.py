"""Distances between sets of images, named by what looks at them: `FID` is Inception-v3's, anything else is `FD-<name>`.

FD (Heusel et al., arXiv 1706.08500), KID (Bińkowski et al., 1801.01401; torchmetrics' kernel), IS (Salimans et al.,
1606.03498), precision and recall (Kynkäänniemi et al., 1904.06991). Statistics are float64, the trace of the square root
comes from symmetric eigen-decompositions, and orders are seeded. FD's interval is a jackknife's, which also takes out what
a finite number of samples adds to it; the others are bootstraps over samples.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from noiseshift.checkpoints.files import read_content
from noiseshift.data import Range, load_images, to_float
from noiseshift.diffusion.memory import Halving
from noiseshift.reading import ReadingError, check_zip, names_in_arrays, read_arrays, reading, regular
from noiseshift.writing import whole_file

Array = np.ndarray

SMALL = 256
"""Feature length up to which FD's jackknife leaves out 100 groups of samples in turn; above it 20, since each needs a
decomposition."""


@dataclass(frozen=True)
class Features:
    """What an extractor saw: values (N, d) float64; probs (N, K) class probabilities, None where it has none."""

    extractor: str
    values: Array
    probs: Array | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def moments(self) -> Moments:
        return _moments(self.values)

    def save(self, path: str | Path) -> None:
        """Write an npz: extractor, values and, where there are any, probs."""
        arrays: dict[str, Any] = {"extractor": np.array(self.extractor), "values": self.values.astype("f4")}
        if self.probs is not None:
            arrays["probs"] = self.probs.astype("f4")
        with whole_file(path) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """What `save` wrote, in float64 again."""
        what, remedy = "features of a run", "measure it again"
        found = read_arrays(path, what, remedy)
        with reading(path, what, remedy):
            values = found["values"].astype("f8").reshape(len(found["values"]), -1)
            probs = found["probs"].astype("f8").reshape(len(values), -1) if "probs" in found else None
            return cls(str(found["extractor"]), values, probs)

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """One set from several of the same extractor, in order."""
        probs = [part.probs for part in parts if part.probs is not None]
        values = np.concatenate([part.values for part in parts])
        return cls(parts[0].extractor, values, np.concatenate(probs) if probs else None)


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of features, unbiased, of n samples (None where a file does not say)."""

    mean: Array
    cov: Array
    n: int | None = None

    @cached_property
    def root(self) -> Array:
        """The symmetric square root of the covariance."""
        values, axes = np.linalg.eigh(self.cov)
        return (axes * np.sqrt(values.clip(0))) @ axes.T


class Extractor(Protocol):
    """Looks at uint8 images (N, C, H, W): (features (N, d), class probabilities (N, K) or None)."""

    name: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]: ...


class ClassifierFeatures:
    """The bundled image classifier, or one saved by `Classifier.save`: distances are `FD-fashion`, or FD-<file stem>."""

    def __init__(self, path: str | Path | None = None):
        from noiseshift.networks.classifier import load_classifier

        self.network = load_classifier(path)
        self.name = "fashion" if path is None else Path(path).stem

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.network.features(to_float(images))
        return features, self.network.head(features).softmax(-1)


class InceptionFeatures:
    """Inception-v3 as FID and IS use it, by torch-fidelity (extra `fid`): 2048 features and 1008 logits.

    `weights` is the path of `weights-inception-2015-12-05-6726825d.pth`; by default torch-fidelity downloads it. Pictures
    of one channel are repeated to three. Raises ImportError or OSError naming the remedy.
    """

    name = "inception"

    def __init__(self, weights: str | Path | None = None):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ImportError(
                "Inception features need torch-fidelity: pip install 'noiseshift[fid]', or choose another --extractor"
            ) from None
        if weights is not None:
            read_content(Path(weights))  # torch-fidelity reads it by torch.load: here it is seen to hold no code
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], None if weights is None else str(weights)
            )
        except OSError as error:
            raise OSError(
                f"the Inception weights are not here and could not be fetched ({error}): give their file with --weights"
            ) from None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features, logits = self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return features, logits.softmax(-1)


class ModuleFeatures:
    """Any module from floats (N, C, H, W) in [-1, 1] to features (N, d), or a TorchScript file of one.

    A TorchScript file is code: `trust` runs it, and must be said. Raises ReadingError when it is not, or when the file is
    missing or damaged.
    """

    def __init__(self, module: nn.Module | str | Path, name: str | None = None, *, trust: bool = False):
        if not isinstance(module, nn.Module):
            name = name or Path(module).stem
            module = _script(module, trust)
        self.network = module.eval()
        self.name = name or type(module).__name__.lower()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(to_float(images)).flatten(1), None


def _script(path: str | Path, trust: bool) -> nn.Module:
    remedy = "give fashion, inception or a TorchScript file"
    file = regular(path, "TorchScript file", remedy)
    if not trust:
        raise ReadingError(f"{path} would be run, as TorchScript is code: --trust it if you made it")
    with reading(path, "TorchScript file", remedy), zipfile.ZipFile(file) as archive:
        check_zip(archive, file.stat().st_size)
        module: nn.Module = torch.jit.load(str(file), map_location="cpu")
        return module


@torch.inference_mode()
def extract(
    images: Tensor,
    extractor: Extractor,
    *,
    batch: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Features of uint8 images (N, C, H, W), in batches, on the extractor's device; the numbers do not depend on `batch`
    but for rounding."""
    values, probs = [], []
    network = getattr(extractor, "network", None)
    weight = None if network is None else next(network.parameters(), None)
    halving = Halving("the extractor")
    for start in range(0, len(images), batch):
        progress(start, len(images))
        rows = images[start : start + batch]
        for seen, shares in halving(extractor, rows if weight is None else rows.to(weight.device)):
            values.append(seen.double().cpu())
            if shares is not None:
                probs.append(shares.double().cpu())
    progress(len(images), len(images))
    return Features(extractor.name, torch.cat(values).numpy(), torch.cat(probs).numpy() if probs else None)


def load_reference(path: str | Path, extractor: Extractor, *, limits: Range = None) -> Features | Moments:
    """Real images to compare with: an npz with mu and sigma (ours, ADM's, EDM's or pytorch-fid's: they must be of the
    same extractor), or pictures (folder or npz), which are looked at now. Raises ValueError or FileNotFoundError."""
    if Path(path).suffix == ".npz" and Path(path).exists():
        what, remedy = "statistics", "give an .npz with mu and sigma, or pictures"
        if {"mu", "sigma"} <= set(names_in_arrays(path, what, remedy)):
            with reading(path, what, remedy):
                return _statistics(path, read_arrays(path, what, remedy, only=("mu", "sigma", "n")))
    return extract(load_images(path, limits=limits).pictures, extractor)


def _statistics(path: str | Path, found: Mapping[str, Array]) -> Moments:
    """Moments from a file's arrays. Raises ReadingError when they are none."""
    mean, cov = found["mu"].astype(np.float64), found["sigma"].astype(np.float64)
    n = int(found["n"]) if "n" in found else None
    if (
        mean.ndim != 1
        or cov.shape != (len(mean), len(mean))
        or not (np.isfinite(mean).all() and np.isfinite(cov).all())
    ):
        raise ReadingError(
            f"{path}: mu {mean.shape} and sigma {cov.shape} are no mean and covariance: make the statistics again"
        )
    if n is not None and n < 2:
        raise ReadingError(f"{path} has statistics of {n} samples: make them again")
    return Moments(mean, cov, n)


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖m_a - m_b‖² + tr(A + B - 2 (B^½ A B^½)^½). Raises ValueError when the features are not of one length."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of {len(a.mean)} and {len(b.mean)} numbers cannot be compared: use one extractor for both"
        )
    cross = np.sqrt(np.linalg.eigvalsh(b.root @ a.cov @ b.root).clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.cov) + np.trace(b.cov) - 2 * cross)


def inception_score(probs: Array, *, splits: int = 10, seed: int = 0) -> float:
    """exp E KL(p(y|x) ‖ p(y)), the mean over `splits` parts of a seeded random order."""
    order = np.random.default_rng(seed).permutation(len(probs))
    parts = np.array_split(probs[order], min(splits, len(probs)))
    return float(np.mean([np.exp(_mean_divergence(part)) for part in parts]))


def _mean_divergence(probs: Array) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = probs * (np.log(probs) - np.log(probs.mean(0)))
    return float(np.nan_to_num(terms).sum(1).mean())


def kernel_distance(a: Array, b: Array, *, subsets: int = 50, size: int = 1000, seed: int = 0) -> Array:
    """(subsets,) unbiased squared MMDs with the kernel (x·y/d + 1)³ (KID), over seeded random subsets of both."""
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(seed)
    size = min(size, len(a), len(b))

    def part(values: Array) -> Tensor:
        return torch.from_numpy(values[rng.choice(len(values), size, replace=False)])

    return np.array([float(poly_mmd(part(a), part(b))) for _ in range(subsets)])


def precision_recall(real: Array, fake: Array, *, neighbours: int = 3) -> tuple[Array, Array]:
    """((N,) whether each generated sample lies in a real one's ball to its `neighbours`-th neighbour, (M,) the reverse)."""
    real_t, fake_t = torch.from_numpy(real), torch.from_numpy(fake)
    return _covered(fake_t, real_t, neighbours), _covered(real_t, fake_t, neighbours)


def _covered(points: Tensor, centres: Tensor, neighbours: int) -> Array:
    """(N,) whether a point is within reach of any centre, in blocks that bound memory."""
    radii = torch.cat(
        [torch.cdist(part, centres).kthvalue(neighbours + 1, dim=1).values for part in centres.split(512)]
    )
    return torch.cat([(torch.cdist(part, centres) <= radii).any(1) for part in points.split(512)]).numpy()


def evaluate(
    features: Features,
    reference: Features | Moments,
    *,
    seed: int = 0,
    allow_small: bool = False,
    pseudo: Array | None = None,
) -> pd.DataFrame:
    """A row a metric: metric, value, low, high (95 %), n. KID, precision and recall need a reference of `Features`; IS
    needs class probabilities. FD's value is the plain one, as everybody prints it; its interval is that of the distance
    of the two laws, without what n samples add to it, and may so lie under the value. `pseudo` are its `pseudo_values`
    where they are at hand.

    Raises ValueError when there are no more samples than features, unless `allow_small`: FD would measure the count.
    """
    values, n = features.values, len(features)
    if not allow_small:
        require_enough(n, reference)
    moments = _moments_of(reference)
    value = frechet_distance(features.moments, moments)
    exact = student(pseudo_values(features, moments, seed=seed) if pseudo is None else pseudo)
    rows: list[dict[str, Any]] = [
        _row(distance_name(features.extractor), value, max(0.0, exact.low), max(0.0, exact.high))
    ]
    rng = np.random.default_rng(seed)
    if isinstance(reference, Features):
        distances = kernel_distance(values, reference.values, seed=seed)
        half = 1.96 * distances.std(ddof=1) / np.sqrt(len(distances))
        prefix = "KID" if features.extractor == "inception" else f"KD-{features.extractor}"
        rows.append(_row(prefix, distances.mean(), distances.mean() - half, distances.mean() + half))
        for name, inside in zip(("precision", "recall"), precision_recall(reference.values, values), strict=True):
            spread = rng.binomial(len(inside), inside.mean(), 2000) / len(inside)
            rows.append(_row(name, inside.mean(), *np.quantile(spread, [0.025, 0.975])))
    if features.probs is not None:
        score = inception_score(features.probs, seed=seed)
        again = [inception_score(features.probs[rng.integers(0, n, n)], seed=seed) for _ in range(100)]
        rows.append(_row(score_name(features.extractor), score, *np.quantile(again, [0.025, 0.975])))
    return pd.DataFrame(rows).assign(n=n)


def require_enough(n: int, reference: Features | Moments) -> None:
    """Raise ValueError for no more samples than features: their covariance is singular, and FD measures their number."""
    width = reference.values.shape[1] if isinstance(reference, Features) else len(reference.mean)
    if n <= width:
        raise ValueError(f"{n} samples under {width} features: FD would measure the count; give more, or say --small")


def distance_name(extractor: str) -> str:
    return "FID" if extractor == "inception" else f"FD-{extractor}"


def score_name(extractor: str) -> str:
    return "IS" if extractor == "inception" else f"IS-{extractor}"


@dataclass(frozen=True)
class Change:
    """An estimate or a difference, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_change(first: Features, second: Features, reference: Features | Moments, *, seed: int = 0) -> Change:
    """FD(first) - FD(second) without what a finite number of samples adds, the samples left out in pairs: sample i of
    both has one seed and class.

    Raises ValueError when the two are not of one length.
    """
    if len(first) != len(second):
        raise ValueError("paired sets need the same number of samples from the same seeds")
    a, b = (pseudo_values(each, reference, seed=seed) for each in (first, second))
    return student(a - b)


def student(values: Array) -> Change:
    """The mean of independent `values` (G,) and its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Change(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def pseudo_values(features: Features, reference: Features | Moments, *, seed: int = 0) -> Array:
    """(G,) jackknife pseudo-values of FD, G·FD - (G - 1)·FD without group g (Quenouille, Biometrika 43, 1956; Tukey, 1958).

    Their mean is FD without its bias of order 1/N, their standard error is the mean's. Equal seeds and lengths leave out
    equal rows, so that differences of pseudo-values are paired. The reference counts as exact.
    """
    moments, values = _moments_of(reference), features.values
    count = min(100 if values.shape[1] <= SMALL else 20, len(values))
    groups = np.array_split(np.random.default_rng(seed).permutation(len(values)), count)
    without = [frechet_distance(_moments(np.delete(values, rows, 0)), moments) for rows in groups]
    return len(groups) * frechet_distance(features.moments, moments) - (len(groups) - 1) * np.array(without)


def _moments_of(reference: Features | Moments) -> Moments:
    return reference.moments if isinstance(reference, Features) else reference


def _moments(values: Array) -> Moments:
    mean, n = values.mean(0), len(values)
    centred = values - mean
    return Moments(mean, centred.T @ centred / max(1, n - 1), n)


def _row(metric: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {"metric": metric, "value": float(value), "low": float(low), "high": float(high)}
