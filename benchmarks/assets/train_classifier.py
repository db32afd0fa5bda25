"""Train the bundled classifier on the 60,000 Fashion-MNIST training images, and take its feature statistics of them.

    python benchmarks/assets/train_classifier.py --out runs/classifier

The data are Debian's package `dataset-fashion-mnist` (MIT). Images are moved by up to two pixels; nothing else is done
to them. Resumes from `--out` after any epoch. Writes `noiseshift/assets/fashion-classifier.safetensors` and
`fashion-statistics.npz` (mu (d,), sigma (d, d) float64, n), each with its card; six minutes of one CPU core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from provenance import card, write_card
from torch import Tensor, nn
from torch.nn import functional as F

from noiseshift.data import ASSETS, Images, load_idx, to_float
from noiseshift.networks.classifier import Classifier, load_classifier

COMMAND = "python benchmarks/assets/train_classifier.py"


def batches(images: Images, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass in an order of its own for each epoch, images moved by up to two pixels."""
    assert images.labels is not None
    generator = torch.Generator().manual_seed(epoch)
    for rows in torch.randperm(len(images), generator=generator)[: len(images) // size * size].split(size):
        dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
        x = to_float(images.pixels[rows])
        moved = F.pad(x, (2, 2, 2, 2), value=-1)[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
        yield moved.contiguous(memory_format=torch.channels_last), images.labels[rows]


def train(images: Images, epochs: int, batch: int, rate: float, folder: Path) -> Classifier:
    """Cross-entropy, AdamW, one cycle of the learning rate."""
    torch.manual_seed(0)
    classifier = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    parts = {"classifier": classifier, "optimizer": optimizer, "cycle": cycle}
    first = resume(folder / "state.pt", parts)
    for epoch in range(first, epochs):
        losses = [descend(classifier, optimizer, cycle, x, labels) for x, labels in batches(images, batch, epoch)]
        torch.save({**{k: v.state_dict() for k, v in parts.items()}, "epoch": epoch + 1}, folder / "state.pt")
        click.echo(f"epoch {epoch + 1}: cross-entropy {sum(losses) / len(losses):.4f}", err=True)
    return classifier.eval()


def descend(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.LRScheduler,
    x: Tensor,
    labels: Tensor,
) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(classifier(x).float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    cycle.step()
    return loss.item()


def resume(path: Path, parts: dict[str, nn.Module]) -> int:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["epoch"])


@torch.no_grad()
def accuracy(classifier: Classifier, images: Images) -> float:
    """Share of images whose most probable class is their label."""
    assert images.labels is not None
    found = torch.cat([classifier(to_float(rows)).argmax(1) for rows in images.pixels.split(500)])
    return float((found == images.labels).double().mean())


@torch.no_grad()
def statistics(classifier: Classifier, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the features over the set, float64."""
    features = torch.cat([classifier.features(to_float(rows)).double() for rows in images.pixels.split(500)]).numpy()
    return features.mean(0), np.cov(features, rowvar=False)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--epochs", default=8, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=4e-3, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(out: Path, data: str, epochs: int, batch: int, rate: float, threads: int) -> None:
    torch.set_num_threads(threads)
    images = load_idx(data, "train")
    classifier = train(images, epochs, batch, rate, out)
    weights, table = ASSETS / "fashion-classifier.safetensors", ASSETS / "fashion-statistics.npz"
    figures = {"accuracy on the 10,000 test images": round(accuracy(classifier, load_idx(data, "t10k")), 4)}
    classifier.card = card(
        "a classifier for FD and IS features", "training split", f"{COMMAND} --epochs {epochs}", figures
    )
    classifier.save(weights)
    write_card(weights, classifier.card)
    # The statistics are those of the classifier as it was stored, in half precision.
    mu, sigma = statistics(load_classifier(weights), images)
    np.savez_compressed(table, mu=mu, sigma=sigma, n=len(images))
    write_card(table, card("feature mean and covariance under fashion-classifier", "training split", COMMAND))
    click.echo(f"accuracy {figures['accuracy on the 10,000 test images']:.4f}")


if __name__ == "__main__":
    main()
