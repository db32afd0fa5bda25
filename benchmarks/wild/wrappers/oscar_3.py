"""OscarW42/A2-Flowmatching, pt_3_model.pt: vectors of 32 numbers, t = 0 is data, it predicts the velocity."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from model import Denoiser

FILE = "pt_3_model.pt"


def model():
    return ns.adapters.weights(FILE, Denoiser(32)), {
        "shape": [32], "schedule": {"kind": "linear"}, "prediction": "velocity", "time": {"zero": "data"},
    }
