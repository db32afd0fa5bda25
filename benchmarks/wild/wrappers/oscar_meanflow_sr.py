"""OscarW42/A2-Flowmatching, sr_32d_meanflow.pt: a MeanFlow; over no time, it is an ordinary flow that predicts the data."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from meanflow_model import Denoiser

FILE = "sr_32d_meanflow.pt"


def model():
    network = ns.adapters.weights(FILE, Denoiser(32))
    return lambda x, t: network(x, t, h=0 * t), {
        "shape": [32], "schedule": {"kind": "linear"}, "prediction": "x0", "time": {"zero": "data"},
    }
