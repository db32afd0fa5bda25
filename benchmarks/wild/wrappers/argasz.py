"""Argasz/miniproject1_diffusion, diffusion_model20251126_120540.pth: under EDM's preconditioning."""

import noiseshift as ns

Model = ns.adapters.defined_in("model.py", "Model")

FILE = "diffusion_model20251126_120540.pth"


def model():
    network = ns.adapters.weights(FILE, Model(1, 32, 1, 2))
    return ns.adapters.EdmDenoiser(network, sigma_data=0.6627), {
        "shape": [1, 32, 32], "schedule": {"kind": "variance-exploding", "sigma_min": 0.002, "sigma_max": 80.0},
        "prediction": "x0", "time": {"conditioning": "sigma"},
    }
