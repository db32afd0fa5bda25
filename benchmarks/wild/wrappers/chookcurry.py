"""chookcurry/flow-matching, notebooks/mnist/unet.pt: t = 1 is data, class 10 is the null class."""

from flow_matching.mnist.unet import MNISTUNet

import noiseshift as ns

FILE = "notebooks/mnist/unet.pt"


def model():
    network = MNISTUNet([16, 32, 64], num_residual_layers=2, t_embed_dim=40, y_embed_dim=8)
    return ns.adapters.weights(FILE, network), {
        "shape": [1, 32, 32],
        "time": {"zero": "noise"},
        "classes": 10,
        "null_class": 10,
    }
