"""EDM's and EDM2's own code beside ours: networks built, randomised and pickled by them, loaded and evaluated by us.

    git clone https://github.com/NVlabs/edm && python benchmarks/parity_edm.py edm
    git clone https://github.com/NVlabs/edm2 && python benchmarks/parity_edm.py edm2
    python benchmarks/parity_edm.py edm --train 1500 --out runs/fashion-edm.pkl
    noiseshift measure runs/fashion-edm.pkl --sampler edm:18

Prints, for every network (EDM2's in half precision, as they are released), the largest difference of a prediction over
four noise scales, relative to the largest prediction, and the number of parameters of the released sizes as both count
them. Their code (CC BY-NC-SA 4.0) is run, never copied. Exits with 1 where a difference is above 1e-5.
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

import noiseshift as ns
from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder
from noiseshift.checkpoints.formats.edm import NETWORKS

SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [8], "dropout": 0.1}
NCSN = {
    **SMALL,
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "decoder_type": "standard",
    "resample_filter": [1, 3, 3, 1],
}
# (preconditioner, classes, channels, settings of the network)
EDM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "DDPM++, EDM": ("EDMPrecond", 0, {"model_type": "SongUNet", **SMALL}),
    "DDPM++, EDM, 5 classes, augmented": ("EDMPrecond", 5, {"model_type": "SongUNet", "augment_dim": 9, **SMALL}),
    "DDPM++, three levels, as for CIFAR": (
        "EDMPrecond",
        0,
        {"model_type": "SongUNet", **SMALL, "channel_mult": [2, 2, 2], "resample_filter": [1, 1]},
    ),
    "DDPM++, VP": ("VPPrecond", 0, {"model_type": "SongUNet", **SMALL}),
    "NCSN++, VE": ("VEPrecond", 0, {"model_type": "SongUNet", **NCSN}),
    "NCSN++, EDM, 5 classes": ("EDMPrecond", 5, {"model_type": "SongUNet", **NCSN}),
    "NCSN++ with skips, VE": (
        "VEPrecond",
        0,
        {"model_type": "SongUNet", **NCSN, "encoder_type": "skip", "decoder_type": "skip"},
    ),
    "ADM, EDM, 5 classes": ("EDMPrecond", 5, {"model_type": "DhariwalUNet", **SMALL, "model_channels": 64}),
    "ADM, iDDPM": ("iDDPMPrecond", 0, {"model_type": "DhariwalUNet", **SMALL, "model_channels": 64}),
    "DDPM++, label dropout": ("EDMPrecond", 5, {"model_type": "SongUNet", "label_dropout": 0.1, **SMALL}),
    "DDPM++, EDM, other sigma_data": ("EDMPrecond", 0, {"model_type": "SongUNet", "sigma_data": 0.3, **SMALL}),
    "DDPM++, VP, other betas and steps": (
        "VPPrecond",
        5,
        {"model_type": "SongUNet", "beta_d": 12.0, "beta_min": 0.3, "M": 500, **SMALL},
    ),
    "NCSN++ residual and skip, three levels": (
        "VEPrecond",
        5,
        {"model_type": "SongUNet", **NCSN, "decoder_type": "skip", "channel_mult": [1, 2, 3]},
    ),
    "ADM, iDDPM, 5 classes, other constants": (
        "iDDPMPrecond",
        5,
        {"model_type": "DhariwalUNet", **SMALL, "C_1": 0.01, "C_2": 0.004, "M": 500},
    ),
    "ADM, VP, two heads": ("VPPrecond", 0, {"model_type": "DhariwalUNet", **SMALL, "channel_mult": [1, 4]}),
}
EDM2: dict[str, tuple[str, int, dict[str, Any]]] = {
    "EDM2": ("Precond", 0, {**SMALL, "model_channels": 64, "dropout": 0.0}),
    "EDM2, 5 classes": ("Precond", 5, {**SMALL, "model_channels": 64, "dropout": 0.0}),
    "EDM2, three levels, no clipping": (
        "Precond",
        5,
        {
            "model_channels": 64,
            "channel_mult": [1, 2, 3],
            "num_blocks": 1,
            "attn_resolutions": [8, 4],
            "clip_act": None,
        },
    ),
    "EDM2, other balances": (
        "Precond",
        5,
        {
            **SMALL,
            "channel_mult_noise": 2,
            "channel_mult_emb": 3,
            "label_balance": 0.4,
            "concat_balance": 0.6,
            "res_balance": 0.2,
            "attn_balance": 0.4,
            "clip_act": 2,
            "resample_filter": [1, 3, 3, 1],
            "sigma_data": 0.7,
        },
    ),
}
# Released sizes, on the meta device: (file, network's class, settings).
RELEASED = {
    "edm": [
        ("edm-cifar10-32x32-cond-vp", "SongUNet", {"img_resolution": 32, "in_channels": 3, "out_channels": 3}
         | {"label_dim": 10, "augment_dim": 9, "channel_mult": [2, 2, 2]}),
        ("edm-imagenet-64x64-cond-adm", "DhariwalUNet", {"img_resolution": 64, "in_channels": 3, "out_channels": 3}
         | {"label_dim": 1000}),
    ],
    "edm2": [("edm2-img512-xs", "UNet", {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 128})],
}  # fmt: skip


def theirs(module: Any, kind: str, classes: int, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    network = getattr(module, kind)(img_resolution=16, img_channels=3, label_dim=classes, **settings).eval()
    for parameter in network.parameters():
        spread = 0.2 if parameter.ndim < 2 else 0.7 / parameter[0].numel() ** 0.5
        parameter.data.normal_(std=spread)  # also those that start at zero
    return network.half() if kind == "Precond" else network  # as EDM2 saves


def difference(network: Any, path: Path, classes: int) -> float:
    """The largest over four noise scales, relative to the largest prediction."""
    with path.open("wb") as file:
        pickle.dump({"ema": network}, file)
    checkpoint = ns.load(path)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 4]) if classes else None
    hot = None if labels is None else torch.nn.functional.one_hot(labels, classes).float()
    worst = 0.0
    for t in checkpoint.model.snap(torch.tensor([0.05, 0.4, 0.7, 0.95], dtype=torch.float64)):
        sigma = checkpoint.model.schedule(t).sigma
        with torch.inference_mode():
            wanted = network(sigma * x, sigma.float(), hot)
            found = checkpoint.model((sigma * x).float(), t, labels).x0
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
    return worst


def encoder_difference(path: Path, network: Any) -> float:
    """Pictures to states and back, by their encoder around a small autoencoder and by ours: the larger difference."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(32, 32), norm_num_groups=8, latent_channels=4).eval().requires_grad_(False)
    encoder = __import__("training.encoders", fromlist=["x"]).StabilityVAEEncoder()
    path.write_bytes(pickle.dumps({"ema": network, "encoder": encoder}))
    coder, encoder._vae = Autoencoder(vae), vae
    coder.standardise(**ns.load(path).card.latents)
    pixels = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean = encoder.encode_pixels(pixels).chunk(2, dim=1)[0]
    wanted = encoder.encode_latents(torch.cat([mean, torch.zeros_like(mean)], dim=1))  # the posterior's mean
    found = coder.encode(pixels.float() / 127.5 - 1)
    shown = encoder.decode(wanted).float()
    seen = (coder.decode(found).clamp(-1, 1) + 1) * 127.5
    within_a_grey_level = float((seen - shown).abs().max()) <= 1.001
    return float((found - wanted).abs().max() / wanted.abs().max()) if within_a_grey_level else math.inf


def _golden(module: Any) -> None:
    """What their networks answer, as lines for the test."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from test_edm import CASES, answers, filled

    for name, (kind, settings, _) in CASES.items():
        if hasattr(module, kind):
            found = answers(filled(getattr(module, kind)(**settings)), settings)
            click.echo(f'    "{name}": [{", ".join(f"{value:.6g}" for value in found)}],')


def _train(module: Any, steps: int, out: Path, data: str) -> None:
    """A small class-conditional DDPM++ by EDM's loss, averaged and pickled as their training loop does."""
    images = ns.data.load_idx(data, "train")
    torch.manual_seed(0)
    settings = {"model_type": "SongUNet", **SMALL, "attn_resolutions": [14], "dropout": 0.0}
    network = module.EDMPrecond(img_resolution=28, img_channels=1, label_dim=10, **settings).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    loss_of = __import__("training.loss", fromlist=["x"]).EDMLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(steps):
        rows = torch.randint(len(images), (64,))
        labels = torch.nn.functional.one_hot(images.labels[rows].long(), 10).float()
        loss = loss_of(network, images.pixels[rows].float() / 127.5 - 1, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(0.998, 1 - 1 / (step + 1))
        for old, new in zip(average.parameters(), network.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - decay)
        if (step + 1) % 250 == 0:
            click.echo(f"step {step + 1}: loss {float(loss):.4f}", err=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        pickle.dump({"ema": average, "loss_fn": loss_of, "augment_pipe": None, "dataset_kwargs": {"path": data}}, file)


@click.command()
@click.argument("code", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--golden", is_flag=True, help="Print their answers to the questions of tests/checkpoints/test_edm.py instead."
)
@click.option(
    "--train", type=click.IntRange(min=1), help="Instead, train their DDPM++ on Fashion-MNIST by their loss: steps."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("fashion-edm.pkl"), show_default=True)
@click.option("--data", type=click.Path(), default="/usr/share/datasets/fashion-mnist", show_default=True)
def main(code: Path, golden: bool, train: int | None, out: Path, data: str) -> None:
    sys.path.insert(0, str(code.resolve()))
    second = (code / "training" / "networks_edm2.py").exists()
    module = __import__(f"training.networks{'_edm2' if second else ''}", fromlist=["x"])
    if golden:
        _golden(module)
        return
    if train:
        _train(module, train, out, data)
        return
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, classes, settings) in (EDM2 if second else EDM).items():
            found = difference(theirs(module, kind, classes, settings), Path(folder) / "x.pkl", classes)
            failed |= not found < 1e-5
            click.echo(f"{name:40s} {found:.1e}")
        if second:
            found = encoder_difference(Path(folder) / "x.pkl", theirs(module, *EDM2["EDM2"]))
            failed |= not found < 1e-5
            click.echo(f"{'states of their encoder':40s} {found:.1e}")
    for name, kind, settings in RELEASED["edm2" if second else "edm"]:
        with torch.device("meta"):
            ours = sum(p.numel() for p in NETWORKS[kind](settings).parameters())
            counted = sum(
                p.numel() for k, p in getattr(module, kind)(**settings).named_parameters() if "augment" not in k
            )
        failed |= ours != counted
        click.echo(f"{name:40s} {ours / 1e6:.2f} M parameters, theirs {counted / 1e6:.2f} M")
    sys.exit(failed)


if __name__ == "__main__":
    main()
