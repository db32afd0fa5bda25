"""Pack the bundled held-out images: 2,000 Fashion-MNIST test images, 200 of each class.

    python benchmarks/assets/reference.py

The data are Debian's package `dataset-fashion-mnist` (MIT). Writes `noiseshift/assets/fashion-heldout.npz` (images
uint8 (2000, 1, 28, 28), labels), its card, and the data's licence.
"""

from __future__ import annotations

import click
import numpy as np
import torch
from provenance import card, write_card

from noiseshift.data import ASSETS, load_idx

LICENSE = """Fashion-MNIST

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@click.command()
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@click.option("--per-class", default=200, show_default=True)
def main(data: str, per_class: int) -> None:
    images = load_idx(data, "t10k")
    assert images.labels is not None
    # Class by class in turn, so that any even split has the same mix of classes.
    chosen = torch.stack([torch.where(images.labels == c)[0][:per_class] for c in range(10)], dim=1).flatten()
    part = images[chosen]
    assert part.labels is not None
    packed = ASSETS / "fashion-heldout.npz"
    np.savez_compressed(packed, images=part.pixels.numpy(), labels=part.labels.numpy())
    what = f"{len(part)} held-out images, {per_class} of each class in turn, for calibration and controls"
    command = f"python benchmarks/assets/reference.py --per-class {per_class}"
    write_card(packed, card(what, "test split: no bundled network was trained on it", command))
    (ASSETS / "LICENSE-fashion-mnist").write_text(LICENSE)


if __name__ == "__main__":
    main()
