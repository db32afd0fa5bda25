"""SebastianSeljak/Protein_Flow_Matching, model(1019).pth: (t, x), pairs of angles, t = 1 is data, (B, 1)."""

from models import Flow

import noiseshift as ns

FILE = "model(1019).pth"


def model():
    return ns.adapters.weights(FILE, Flow()), {
        "shape": [2], "schedule": {"kind": "linear"}, "prediction": "velocity", "signature": "(t, x)",
        "time": {"zero": "noise", "column": True},
    }
