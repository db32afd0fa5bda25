"""Danielyhzhao/DCGANvsDDPM, pth/ddpm_unet_best.pth: it takes a label and no time, 100 steps."""

import noiseshift as ns

ConditionalUNet = ns.adapters.defined_in("app.py", "ConditionalUNet")

FILE = "pth/ddpm_unet_best.pth"


def model():
    network = ns.adapters.weights(FILE, ConditionalUNet(num_classes=10))
    return lambda x, t, label: network(x, label), {  # it takes no time
        "shape": [1, 28, 28], "schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 100},
        "prediction": "epsilon", "time": {"scale": 100, "offset": -1},  # steps 0 … 99; {} for t from 0 to 1
        "classes": 10,
    }
