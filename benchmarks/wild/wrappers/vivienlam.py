"""VivienLam/signal-generation-pytorch, checkpoints/ddpm.pt: signals of 100 numbers, 100 steps."""

from models.noise_predictor import NoisePredictor

import noiseshift as ns

FILE = "checkpoints/ddpm.pt"


def model():
    return ns.adapters.weights(FILE, NoisePredictor(100)), {
        "shape": [100], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 100},
        "prediction": "epsilon", "time": {"scale": 100, "offset": -1},
    }
