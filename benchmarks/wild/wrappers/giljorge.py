"""giljorge0/makemore-flow, src/checkpoints/flow.pt: a flow to latents of names, points of the plane."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from train_flow import VelocityField

FILE = "src/checkpoints/flow.pt"


def model():
    return ns.adapters.weights(FILE, VelocityField()), {
        "shape": [2], "schedule": {"kind": "linear"}, "prediction": "velocity",
        "time": {"zero": "noise", "column": True},
    }
