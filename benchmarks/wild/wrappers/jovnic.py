"""Jovnic/Advanced-Image-Generation, diffusion.pth: its time is a second channel, step k of 200 as k / 199."""

from helper_lib.model import DiffusionNoisePredictor

import noiseshift as ns

FILE = "diffusion.pth"


def model():
    return ns.adapters.weights(FILE, DiffusionNoisePredictor()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 200},
        "prediction": "epsilon", "time": {"scale": 1.005025126, "offset": -0.005025125628},  # step k as k / 199
    }
