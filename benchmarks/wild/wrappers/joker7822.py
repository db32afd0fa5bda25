"""Joker7822/num4, diffusion_model.pth: four digits, its class within a function, alphas_cumprod 1 - t / 1000."""

import noiseshift as ns

DiffusionMLP = ns.adapters.defined_in("numbers4_predictor.py", "DiffusionMLP")

FILE = "diffusion_model.pth"


def model():
    return ns.adapters.weights(FILE, DiffusionMLP()), {
        "shape": [4], "schedule": {"kind": "discrete", "alphas_cumprod": [1 - t / 1000 for t in range(1, 1000)]},
        "prediction": "epsilon", "time": {"scale": 999},
    }
