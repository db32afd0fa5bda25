"""Networks that a user's own module builds, for `module:function`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from job import Job
from torch import Tensor, nn

MODULES = {
    "small": """
import noiseshift as ns, torch
from smalldiffusion import Scaled, ScheduleDDPM, Unet
def made():
    return Scaled(Unet)(8, 3, 3, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.0), ScheduleDDPM(1000)
def model():
    network, schedule = made()
    return ns.adapters.smalldiffusion(ns.adapters.weights("small.pth", network), schedule), {"shape": [3, 8, 8]}
""",
    "flow": """
import noiseshift as ns, torch
from torchcfm.models.unet.unet import UNetModelWrapper
class Velocity(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unet = UNetModelWrapper(dim=(3, 8, 8), num_channels=32, num_res_blocks=1, channel_mult=(1, 2))
    def forward(self, x, t):
        return self.unet(t, x)
def model():
    return ns.adapters.flow_matching(ns.adapters.weights("flow.pth", Velocity())), {"shape": [3, 8, 8]}
""",
    "azul": """
import noiseshift as ns, torch
from azula.denoise import KarrasDenoiser
from azula.noise import VPSchedule
from torchcfm.models.unet.unet import UNetModelWrapper
class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unet = UNetModelWrapper(dim=(3, 8, 8), num_channels=32, num_res_blocks=1, channel_mult=(1, 2))
    def forward(self, x, time):
        return self.unet(time, x)
def made():
    return KarrasDenoiser(Backbone(), VPSchedule())
def model():
    return ns.adapters.azula(ns.adapters.weights("azul.pth", made())), {"shape": [3, 8, 8]}
""",
}


def code_of(job: Job, name: str) -> Any:
    """The module that a user would write, in the checkpoint's folder."""
    (job.folder / f"{name}.py").write_text(MODULES[name].lstrip())
    sys.path.insert(0, str(job.folder))
    return importlib.import_module(name)


def smalldiffusion(job: Job) -> list[str]:
    from smalldiffusion import generate_train_sample

    network, schedule = code_of(job, "small").made()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        x0, sigma, noise, _ = generate_train_sample(x, schedule)
        return network.get_loss(x0, sigma, noise)

    torch.save(job.fit(network, loss, times=2).state_dict(), job.folder / "small.pth")
    return ["small:model", "--sampler", "edm:18"]


def flow_matching(job: Job) -> list[str]:
    from flow_matching.path import CondOTProbPath

    network, path = code_of(job, "flow").Velocity(), CondOTProbPath()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        drawn = path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        return nn.functional.mse_loss(network(drawn.x_t, drawn.t), drawn.dx_t)

    torch.save(job.fit(network, loss).state_dict(), job.folder / "flow.pth")
    return ["flow:model", "--sampler", "euler:20"]


def azula(job: Job) -> list[str]:
    denoiser = code_of(job, "azul").made()
    torch.save(
        job.fit(denoiser, lambda x, y: denoiser.loss(x, torch.rand(len(x))), times=2).state_dict(),
        job.folder / "azul.pth",
    )
    return ["azul:model", "--sampler", "ddim:20"]
