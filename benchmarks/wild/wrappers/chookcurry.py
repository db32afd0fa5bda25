"""chookcurry/flow-matching, notebooks/mnist/unet.pt: t = 1 is data, class 10 is the null class."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from flow_matching.mnist.vector_field import MNISTUNet

FILE = "notebooks/mnist/unet.pt"


def model():
    return ns.adapters.weights(FILE, MNISTUNet(channels=[16, 32, 64], num_residual_layers=2, t_embed_dim=40, y_embed_dim=8)), {
        "shape": [1, 32, 32], "schedule": {"kind": "linear"}, "prediction": "velocity", "classes": 10, "null_class": 10,
        "time": {"zero": "noise"},
    }
