"""niuwengang/mnist_ddpm, ddpm_fashion.pt: whole steps of shape (B, 1) into an nn.Embedding."""

from models import MyUNet

import noiseshift as ns

FILE = "ddpm_fashion.pt"


def model():
    return ns.adapters.weights(FILE, MyUNet()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon", "time": {"integer": True, "column": True},
    }
