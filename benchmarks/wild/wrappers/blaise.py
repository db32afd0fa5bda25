"""Blaise143/stochastic-interpolant-diffusion, checkpoints/flow_model.pth: a label of None asks for no class."""

from models.unet import Unet

import noiseshift as ns

FILE = "checkpoints/flow_model.pth"


def model():
    return ns.adapters.weights(FILE, Unet(1, 1, [32, 64, 128])), {
        "shape": [1, 28, 28],
        "time": {"zero": "noise"},
        "classes": 10,
        "null_class": "none",
    }
