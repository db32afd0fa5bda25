"""sdaloglu/diffusion_with_entropy, contents_geo/ddpm_mnist_geo.pth: geometric betas in its buffers, its class in a notebook."""

import noiseshift as ns

CNN = ns.adapters.defined_in("DDPM.ipynb", "CNN")

FILE = "contents_geo/ddpm_mnist_geo.pth"


def model():
    return ns.adapters.weights(FILE, CNN(in_channels=1, expected_shape=(28, 28), n_hidden=(16, 32, 32, 16))), {
        "shape": [1, 28, 28], "range": [-0.5, 0.5], "schedule": ns.adapters.schedule(FILE),  # 1,001 steps, by its beta_t
        "prediction": "epsilon", "time": {"scale": 1.001, "offset": -0.001},  # step k as k / 1000
    }
