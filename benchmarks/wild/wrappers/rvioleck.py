"""Rvioleck/diffusion_toy, checkpoints/ddpm_fashion.pt: whole steps of 100 into an embedding."""

import noiseshift as ns

MyUNet = ns.adapters.defined_in("DDPM_full_code.ipynb", "MyUNet")

FILE = "checkpoints/ddpm_fashion.pt"


def model():
    return ns.adapters.weights(FILE, MyUNet(100)), {
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 100},
        "prediction": "epsilon", "time": {"integer": True, "column": True},
    }
