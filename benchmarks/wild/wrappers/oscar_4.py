"""OscarW42/A2-Flowmatching, pt_4_model.pt: vectors of 32 numbers, t = 0 is data, it predicts the data."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from model import Denoiser

FILE = "pt_4_model.pt"


def model():
    return ns.adapters.weights(FILE, Denoiser(32)), {
        "shape": [32], "schedule": {"kind": "linear"}, "prediction": "x0", "time": {"zero": "data"},
    }
