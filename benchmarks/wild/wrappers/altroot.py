"""ALTroot-user/try_DDPM, models/ddpm_mnist.pth: its time is a second channel, in whole steps."""

from unet import UNet

import noiseshift as ns

FILE = "models/ddpm_mnist.pth"


def model():
    return ns.adapters.weights(FILE, UNet()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon", "time": {"scale": 1000, "offset": -1},  # steps 0 … 999; {} for t from 0 to 1
    }
