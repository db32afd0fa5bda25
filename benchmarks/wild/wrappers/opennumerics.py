"""OpenNumerics/SGM-for-porous-media, models/score_model_embedded.pth: a score, its time embedded outside."""

import sys

import torch

import noiseshift as ns

sys.path.insert(0, "old")
from SGMNetwork import Score

FILE = "models/score_model_embedded.pth"


def model():
    network, time = ns.adapters.weights(FILE, Score([18, 128, 128, 128, 128, 2])), 2**torch.arange(8) * 2 * torch.pi
    return lambda x, t: network(torch.cat([x, (time * t[:, None]).sin(), (time * t[:, None]).cos()], 1)), {
        "shape": [2], "schedule": {"kind": "variance-preserving", "beta_min": 0.001, "beta_max": 3.0},
        "prediction": "score", "time": {"zero": "data"},
    }
