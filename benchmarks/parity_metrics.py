"""Distances beside those of torch-fidelity, pytorch-fid and torchmetrics, on the same features.

    pip install torch-fidelity pytorch-fid        # brings torchvision: an environment of its own
    python benchmarks/parity_metrics.py

Prints each value, theirs and the relative difference; exits with 1 when one is above 1e-6.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid

from noiseshift.evaluation import Features, frechet_distance, inception_score, precision_recall


def main() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, 64)) / 8
    real, fake = rng.standard_normal((2000, 64)) @ mixing, 1.1 * rng.standard_normal((2000, 64)) @ mixing + 0.1
    a, b = Features("x", fake).moments, Features("x", real).moments
    ours = frechet_distance(a, b)
    pairs = {
        "FD, pytorch-fid": (ours, calculate_frechet_distance(a.mean, a.cov, b.mean, b.cov)),
        "FD, torch-fidelity": (
            ours,
            fid_statistics_to_metric({"mu": a.mean, "sigma": a.cov}, {"mu": b.mean, "sigma": b.cov}, verbose=False)[
                "frechet_inception_distance"
            ],
        ),
        "FD, torchmetrics": (ours, float(_compute_fid(*map(torch.from_numpy, (a.mean, a.cov, b.mean, b.cov))))),
    }
    logits = torch.from_numpy(3 * rng.standard_normal((2000, 10)))
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    pairs["IS, torch-fidelity"] = (inception_score(logits.softmax(-1).numpy()), float(theirs))
    found = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=3, prc_batch_size=500, verbose=False
    )
    precision, recall = precision_recall(real, fake)
    pairs["precision, torch-fidelity"] = (float(precision.mean()), found["precision"])
    pairs["recall, torch-fidelity"] = (float(recall.mean()), found["recall"])
    worst = 0.0
    for name, (mine, other) in pairs.items():
        difference = abs(mine / float(other) - 1)
        worst = max(worst, difference)
        print(f"{name:28s} {mine:.10f}  {float(other):.10f}  {difference:.1e}")
    sys.exit(int(worst > 1e-6))


if __name__ == "__main__":
    main()
