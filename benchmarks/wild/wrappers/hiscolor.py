"""hiscolor/DDPM-Simple, diffusion_model.pth: points of the plane."""

from forward_process import DiffusionModel

import noiseshift as ns

FILE = "diffusion_model.pth"


def model():
    return ns.adapters.weights(FILE, DiffusionModel()), {
        "shape": [2], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon", "time": {"scale": 1000, "offset": -1},
    }
