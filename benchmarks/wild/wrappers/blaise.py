"""Blaise143/stochastic-interpolant-diffusion, checkpoints/flow_model.pth: a label of None asks for no class."""

from models.unet import Unet

import noiseshift as ns

FILE = "checkpoints/flow_model.pth"


def model():
    return ns.adapters.weights(FILE, Unet(in_channels=1, out_channels=1, channels_list=[32, 64, 128], embedding_dim=100)), {
        "shape": [1, 28, 28], "schedule": {"kind": "linear"}, "prediction": "velocity", "classes": 10,
        "null_class": "none", "time": {"zero": "noise"},
    }
