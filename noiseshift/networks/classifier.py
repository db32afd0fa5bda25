"""A small image classifier: its features measure distances between sets of images, its logits say what a sample shows.

Distances on its features are `FD-<name>`, never FID: FID is Inception-v3's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noiseshift.data import ASSETS
from noiseshift.networks.shapes import shapes_only
from noiseshift.reading import read_safetensors, read_words, reading
from noiseshift.writing import replaced_file, write_tensors
from noiseshift.writing.signatures import CLASSIFIER, signed_classifier


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a classifier.

    Attributes:
        channels: of an image.
        classes: how many.
        width: of the first stage; it is doubled twice after.
    """

    channels: int = 1
    classes: int = 10
    width: int = 32

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Classifier(nn.Module):
    """Five convolutions and a mean over places: images (N, C, H, W) in [-1, 1] → logits (N, classes). H, W ≥ 4.

    Args:
        config: Its shape; None for the defaults.
        card: What is known of it, such as its accuracy; saved with it.
    """

    def __init__(self, config: ClassifierConfig | None = None, *, card: dict[str, Any] | None = None):
        super().__init__()
        self.config = config or ClassifierConfig()
        self.card = card or {}
        w = self.config.width
        self.body = nn.Sequential(
            _layer(self.config.channels, w),
            nn.MaxPool2d(2),
            _layer(w, 2 * w),
            _layer(2 * w, 2 * w),
            nn.MaxPool2d(2),
            _layer(2 * w, 4 * w),
            _layer(4 * w, 4 * w),
        )
        self.head = nn.Linear(4 * w, self.config.classes)

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return self.head.in_features

    def features(self, x: Tensor) -> Tensor:
        """(N, num_features) of images (N, C, H, W) in [-1, 1]. Raises ValueError for other channels or under 4×4."""
        if x.ndim != 4 or x.shape[1] != self.config.channels or min(x.shape[2:]) < 4:
            expected = f"(N, {self.config.channels}, H, W) with H, W ≥ 4"
            raise ValueError(f"the classifier reads images {expected}, got {tuple(x.shape)}: give one for this data")
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write float16 weights, with the shape and card in the safetensors header.

        Args:
            path: Where to write.
            overwrite: Replace any file that is there, not only a saved classifier.

        Raises:
            PlaceError: A ValueError: something else is there.
        """
        state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in self.state_dict().items()}
        about = {"config": self.config.as_dict(), "card": self.card}
        with replaced_file(path, signed_classifier, overwrite=overwrite) as fresh:
            write_tensors(fresh, state, {CLASSIFIER: json.dumps(about)})


def load_classifier(path: str | Path | None = None) -> Classifier:
    """A saved classifier, in evaluation mode and without gradients of its own; None is the bundled one.

    The bundled one knows the ten classes of Fashion-MNIST at 28×28 (its `card` states its accuracy). Raises
    FileNotFoundError or ValueError naming the remedy.
    """
    path = Path(ASSETS / "fashion-classifier.safetensors" if path is None else path)
    kind_and_remedy = ("classifier", "give a file that Classifier.save wrote")
    state, words = read_safetensors(path, *kind_and_remedy)
    about = read_words(words.get(CLASSIFIER), path, *kind_and_remedy)
    with reading(path, *kind_and_remedy):
        # Shapes only: the weights are the file's own tensors, whatever sizes it claims.
        with shapes_only():
            classifier = Classifier(ClassifierConfig(**about["config"]), card=about["card"])
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        classifier.load_state_dict(tensors, assign=True)
    return classifier.eval().requires_grad_(False)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
