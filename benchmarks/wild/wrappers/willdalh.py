"""willdalh/minDiffusion-fork, ddpm_mnist.pth: 11 steps in its buffers, pixels from -1/2 to 1/2, no time; a narrower network."""

from torch import nn

import noiseshift as ns

blk = ns.adapters.defined_in("superminddpm.py", "blk")
DummyEpsModel = ns.adapters.defined_in("superminddpm.py", "DummyEpsModel")

FILE = "ddpm_mnist.pth"


def model():
    network = DummyEpsModel(1)
    network.conv = nn.Sequential(blk(1, 64), blk(64, 128), blk(128, 64), nn.Conv2d(64, 1, 3, padding=1))
    return ns.adapters.weights(FILE, network), {
        "shape": [1, 28, 28], "range": [-0.5, 0.5], "schedule": ns.adapters.schedule(FILE),  # 11 steps, by its sqrt_beta_t
        "prediction": "epsilon", "time": {"scale": 1.1, "offset": -0.1},
    }
