"""giljorge0/makemore-flow, src/checkpoints/flow_cond_8d.pt: a flow to vectors of 8, with classes."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from flow_8d import VelocityField8D

FILE = "src/checkpoints/flow_cond_8d.pt"


def model():
    return ns.adapters.weights(FILE, VelocityField8D()), {
        "shape": [8],
        "schedule": {"kind": "linear"},
        "prediction": "velocity", "time": {"zero": "noise", "column": True},
        "classes": 4, "null_class": 0,
    }
