"""Yichizz/hot_vs_cold_diffusion, model/ddpm_mnist_starter.pth: under gt., 1,001 rows in its buffers, it takes i / 1000."""

from diffusion_mnist.model_ddpm import CNN

import noiseshift as ns

FILE = "model/ddpm_mnist_starter.pth"


def model():
    return ns.adapters.weights(FILE, CNN(in_channels=1, expected_shape=(28, 28), n_hidden=(16, 32, 32, 16))), {
        "shape": [1, 28, 28], "range": [-0.5, 0.5], "schedule": ns.adapters.schedule(FILE),  # 1,001 steps, by its beta_t
        "prediction": "epsilon", "time": {"scale": 1.001, "offset": -0.001},
    }
