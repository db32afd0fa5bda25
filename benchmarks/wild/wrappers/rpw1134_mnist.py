"""rpw1134/diffusion-model-experiment, mnist_diffusion_model_conditioned.pth: classes, the last row is the null class."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from diffusion_model_experiment.model import MnistDiffusionUNet

FILE = "mnist_diffusion_model_conditioned.pth"


def model():
    return ns.adapters.weights(FILE, MnistDiffusionUNet()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon", "classes": 10, "null_class": 10, "time": {"scale": 1000, "offset": -1},
    }
