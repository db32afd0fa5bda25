"""MaxTalberg/Diffusion-Model, src/ddpm_mnist.pth: under gt., 1,001 rows in its buffers, it takes i / 1000."""

import sys

import noiseshift as ns

sys.path.insert(0, "src")
from cnn import CNN

FILE = "src/ddpm_mnist.pth"


def model():
    return ns.adapters.weights(FILE, CNN(in_channels=1, expected_shape=(28, 28), n_hidden=(16, 32, 32, 16))), {
        "shape": [1, 28, 28], "range": [-0.5, 0.5], "schedule": ns.adapters.schedule(FILE),  # 1,001 steps, by its beta_t
        "prediction": "epsilon", "time": {"scale": 1.001, "offset": -0.001},  # step k as k / 1000
    }
