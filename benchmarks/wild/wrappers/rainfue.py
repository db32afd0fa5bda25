"""Rainfue/Diffusion, ddpm_mnist500.pth: its class is in a script that trains when it is imported."""

import noiseshift as ns

UNet = ns.adapters.defined_in("test.py", "UNet")

FILE = "ddpm_mnist500.pth"


def model():
    return ns.adapters.weights(FILE, UNet()), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon", "time": {"scale": 1000, "offset": -1},
    }
