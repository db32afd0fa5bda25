"""Networks of shapes alone."""

import subprocess
import sys

import torch
from torch import nn

from noiseshift.networks.shapes import shapes_only


def layers() -> nn.Module:
    return nn.ModuleList([nn.Embedding(3, 4), nn.Linear(4, 5), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)])


def test_layers_have_shapes_and_no_weights():
    with shapes_only():
        made = layers().state_dict()
    assert all(part.is_meta for part in made.values())
    assert {key: part.shape for key, part in made.items()} == {k: v.shape for k, v in layers().state_dict().items()}


def test_what_has_memory_is_filled_all_the_same():
    with shapes_only():
        kept = torch.zeros(1000, device="cpu")
        for fill in (kept.normal_, kept.uniform_, lambda: nn.init.normal_(kept)):
            kept.zero_()
            fill()
            assert kept.std() > 0.2


def test_checkpoints_are_loaded_without_torchs_compiler():
    """Which takes longer to import than all the rest."""
    loads = "ns.load().level_estimator(), ns.load('fashion-ddpm'), ns.networks.classifier.load_classifier()"
    code = f"import sys, noiseshift as ns, noiseshift.networks.classifier; {loads}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
