"""zoe2002wu/Inference-Time, diffusion_model.pt: paths of points, (steps, 2)."""

from model.pointmaze_mlp import Pointmaze_MLP

import noiseshift as ns

FILE = "diffusion_model.pt"


def model():
    return ns.adapters.weights(FILE, Pointmaze_MLP(input_dim=2)), {
        "shape": [16, 2], "schedule": {"kind": "linear"}, "prediction": "epsilon", "time": {"zero": "data"},
    }
