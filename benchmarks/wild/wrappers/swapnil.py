"""SwapnilPurohit/Generative-and-Agentic-AI-SOS-26, models/ddpm_mnist.pth: 200 steps."""

from unet import SimpleUNet

import noiseshift as ns

FILE = "models/ddpm_mnist.pth"


def model():
    return ns.adapters.weights(FILE, SimpleUNet()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 200},
        "prediction": "epsilon", "time": {"scale": 200, "offset": -1},  # steps 0 … 199; {} for t from 0 to 1
    }
