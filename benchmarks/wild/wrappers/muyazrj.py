"""MuyazRJ/mnist-diffusion-unet, model_dict/mnist_unet.pth: whole steps of cosine betas."""

from models.unet import UNet

import noiseshift as ns

FILE = "model_dict/mnist_unet.pth"


def model():
    return ns.adapters.weights(FILE, UNet()), {
        "shape": [1, 28, 28],
        "schedule": {"kind": "discrete", "betas": "cosine", "steps": 1000},
        "prediction": "epsilon",
        "time": {"integer": True},
    }
