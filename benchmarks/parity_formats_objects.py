"""Objects of libraries that need torchvision, against what `ns.adapters` reads of them: k-diffusion and smalldiffusion.

    pip install k-diffusion smalldiffusion torchcfm    # in an environment of its own, with torchvision
    python benchmarks/parity_formats_objects.py

Built, sampled and saved by their own code. Prints one line a check with the largest relative difference, and fails
above 1e-5 (predictions) or on a state that is not where its sampler was.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from k_diffusion import external, layers, sampling
from smalldiffusion import PredV, PredX0, Scaled, ScheduleDDPM, ScheduleLogLinear, TimeInputMLP, samples
from torch import Tensor, nn
from torchcfm.models.unet.unet import UNetModelWrapper

import noiseshift as ns

TIMES = (0.05, 0.3, 0.62, 0.95)


class Inner(nn.Module):
    """A small network of (x, number), as k-diffusion's denoisers take inside."""

    def __init__(self, channels: int = 1):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(2, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        extra = torch.sin(time.float()).view(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
        answer: Tensor = self.body(torch.cat([x, extra], 1))
        return answer


def check(name: str, found: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    difference = float((found - theirs).abs().max() / theirs.abs().max())
    print(f"{name:52s} {difference:.1e}", flush=True)
    if difference > bound:
        raise SystemExit(f"{name}: {difference:.1e} is more than {bound:g}")


def k_diffusion_predictions() -> None:
    class Diffusion:
        alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).numpy()

    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    denoisers = {
        "Denoiser": layers.Denoiser(Inner(), sigma_data=0.5),
        "VDenoiser": external.VDenoiser(Inner()),
        "OpenAIDenoiser": external.OpenAIDenoiser(Inner(2), Diffusion()),
        "OpenAIDenoiser, quantized": external.OpenAIDenoiser(Inner(2), Diffusion(), quantize=True),
    }
    for name, denoiser in denoisers.items():
        model = ns.adapters.k_diffusion(denoiser)
        for t in model.snap(torch.tensor(TIMES, dtype=torch.float64)):
            sigma = model.schedule(t).sigma.float()
            with torch.no_grad():
                check(
                    f"k-diffusion {name}, sigma {float(sigma):.3g}", model(x, t).x0, denoiser(x, sigma * torch.ones(3))
                )


def k_diffusion_samplers() -> None:
    denoiser = layers.Denoiser(Inner(), sigma_data=0.5)
    model = ns.adapters.k_diffusion(denoiser, sigma_min=0.002, sigma_max=80)
    sigmas = sampling.get_sigmas_karras(12, 0.01, 50)
    for name, options in {
        "sample_euler": {},
        "sample_heun": {},
        "sample_heun, churned": {"s_churn": 2.0},
        "sample_dpm_2": {},
        "sample_dpm_2_ancestral": {},
    }.items():
        theirs: list[dict[str, Tensor]] = []
        recorded: list[tuple[Tensor, float]] = []
        torch.manual_seed(0)
        x = torch.randn(4, 1, 8, 8) * 50
        seen = ns.observe(model, times=sigmas, points=100)
        own = seen.record
        seen.record = lambda state, t, prediction, own=own, recorded=recorded: (
            recorded.append((state, t)),
            own(state, t, prediction),
        )
        with seen:
            getattr(sampling, name.split(",")[0])(denoiser, x, sigmas, callback=theirs.append, disable=True, **options)
        if len(recorded) != len(theirs):
            raise SystemExit(f"{name}: {len(recorded)} states heard, {len(theirs)} taken")
        sigmas_there = torch.stack([model.schedule(torch.tensor(t).double()).sigma for _, t in recorded])
        check(
            f"k-diffusion {name}: the conditioning sigma",
            sigmas_there,
            torch.stack([s["sigma_hat"] for s in theirs]).double(),
        )
        check(
            f"k-diffusion {name}: states", torch.stack([s for s, _ in recorded]), torch.stack([s["x"] for s in theirs])
        )


def smalldiffusion_models() -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    for kind in (TimeInputMLP, Scaled(TimeInputMLP), PredX0(TimeInputMLP), PredV(Scaled(TimeInputMLP))):
        for schedule in (ScheduleLogLinear(100), ScheduleDDPM()):
            torch.manual_seed(0)
            network = kind(dim=2).eval()
            model = ns.adapters.smalldiffusion(network, schedule)
            for t in torch.tensor(TIMES, dtype=torch.float64):
                sigma = model.schedule(t).sigma.float()
                with torch.no_grad():
                    theirs = network.predict_eps(x, sigma)
                    check(f"smalldiffusion {kind.__name__} {type(schedule).__name__}", model(x, t).eps, theirs)
    schedule = ScheduleLogLinear(100)
    sigmas, recorded = schedule.sample_sigmas(10), []
    seen = ns.observe(ns.adapters.smalldiffusion(network, schedule), times=sigmas, points=100)
    own = seen.record
    seen.record = lambda state, t, prediction: (recorded.append(state), own(state, t, prediction))
    start = torch.randn(4, 2) * sigmas[0]
    with seen:
        states = list(samples(network, sigmas, xt=start, batchsize=4))
    # The first state is at t = 1, where there is no level to read.
    check("smalldiffusion samples(): states", torch.stack(recorded), torch.stack(states[: len(recorded)]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(network.state_dict(), path)
        filled = ns.adapters.weights(path, kind(dim=2))
        check("smalldiffusion .pth", filled(x, sigma), network(x, sigma))


def torchcfm_unet() -> None:
    torch.manual_seed(0)
    network = UNetModelWrapper(dim=(1, 32, 32), num_channels=32, num_res_blocks=1).eval()
    nn.init.normal_(network.out[-1].weight, std=0.1)
    x = torch.randn(2, 1, 32, 32)
    model = ns.adapters.torchcfm(network)
    for t in TIMES:
        with torch.no_grad():
            theirs = network(torch.tensor(1 - t), x)
            check(f"torchcfm UNetModelWrapper, t {1 - t:.2f}", -model(x, torch.tensor(t)).velocity, theirs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cfm.pt"
        # As examples/images/cifar10/train_cifar10.py saves them.
        parallel = {f"module.{k}": v for k, v in network.state_dict().items()}
        torch.save({"net_model": parallel, "ema_model": parallel, "sched": {}, "optim": {}, "step": 1}, path)
        filled = ns.adapters.weights(path, UNetModelWrapper(dim=(1, 32, 32), num_channels=32, num_res_blocks=1))
        with torch.no_grad():
            check("torchcfm .pt", filled(torch.tensor(0.5), x), network(torch.tensor(0.5), x))


if __name__ == "__main__":
    k_diffusion_predictions()
    k_diffusion_samplers()
    smalldiffusion_models()
    torchcfm_unet()
