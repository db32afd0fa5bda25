"""Shylin26/diffusion_from_scratch, model.pth: 300 whole steps into an embedding, pixels from 0 to 1."""

from reverse_process import NoisePredictor

import noiseshift as ns

FILE = "model.pth"


def model():
    return ns.adapters.weights(FILE, NoisePredictor()), {
        "shape": [1, 28, 28],
        "range": [0, 1],  # fill in: pixels as ToTensor makes them, unless changed after
        "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 300}, "prediction": "epsilon",
        "time": {"integer": True},
    }
