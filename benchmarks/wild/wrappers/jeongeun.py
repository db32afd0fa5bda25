"""jeongeun980906/RL-Finetunning-Flow-matching-model, flow.pth: (t, x), two moons."""

import noiseshift as ns

Flow = ns.adapters.defined_in("flow_matching.ipynb", "Flow")

FILE = "flow.pth"


def model():
    return ns.adapters.weights(FILE, Flow()), {
        "shape": [2], "schedule": {"kind": "linear"}, "prediction": "velocity", "signature": "(t, x)",
        "time": {"zero": "noise", "column": True},
    }
