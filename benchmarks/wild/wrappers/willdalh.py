"""willdalh/minDiffusion-fork, ddpm_mnist.pth: 11 steps in its buffers, pixels from -1/2 to 1/2, no time; a narrower network."""

from superminddpm import blk
from torch import nn

import noiseshift as ns

FILE = "ddpm_mnist.pth"


def model():
    network = nn.Sequential(blk(1, 64), blk(64, 128), blk(128, 64), nn.Conv2d(64, 1, 3, padding=1))
    ns.adapters.weights(FILE, network)
    card = {"shape": [1, 28, 28], "range": [-0.5, 0.5], "prediction": "epsilon"}
    return lambda x, t: network(x), card | {"schedule": ns.adapters.schedule(FILE)}
