"""MuyazRJ/mnist-diffusion-unet, model_dict/mnist_unet.pth: whole steps of cosine betas."""

from models.unet import UNet

import noiseshift as ns

FILE = "model_dict/mnist_unet.pth"


def model():
    return ns.adapters.weights(FILE, UNet(in_channels=1, out_channels=1)), {
        "shape": [1, 28, 28], "range": [-1, 1], "schedule": {"kind": "discrete", "betas": "cosine", "steps": 1000},
        "prediction": "epsilon", "time": {"scale": 1000, "offset": -1},
    }
