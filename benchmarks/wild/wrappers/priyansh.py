"""priyansh-iitd26/HEA-TabDDPM, checkpoints/model_ema.pt: a table of 13 columns and 4 classes, cosine betas."""

from tab_ddpm.modules import MLPDiffusion

import noiseshift as ns

FILE = "checkpoints/model_ema.pt"


def model():
    return ns.adapters.weights(FILE, MLPDiffusion(13, 4, True, {"d_layers": [256, 256], "dropout": 0.0})), {
        "shape": [13], "schedule": {"kind": "discrete", "betas": "cosine", "steps": 1000}, "prediction": "epsilon",
        "classes": 4, "null_class": "none", "time": {"scale": 1000, "offset": -1},
    }
