"""Strangers' checkpoints: where each lies, what data it was trained on, and how its own code noises, predicts and samples.

`own(network)` of a case gives its own code's three functions, written against the repository's modules, with which ours are
compared: noised(x0, eps, t), predicted(x, t) → the noise, and times. t counts here as the repository counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Noised = Callable[[Tensor, Tensor, Any], Tensor]
Predicted = Callable[[Tensor, Any, Tensor | None], Tensor]
Sample = Callable[[Tensor, Tensor | None, Callable[[Tensor], Tensor]], Tensor]


@dataclass(frozen=True)
class Own:
    """A repository's own way: `noised(x0, eps, t)`, the noise `predicted(x, t, label)`, its times with ours beside them, and its
    sampler; `replay(model)` is that sampler around our reading, where no update of ours is like it."""

    noised: Noised
    predicted: Predicted
    times: Sequence[tuple[Any, float]]
    sample: Sample
    replay: Callable[[Any], Sample] | None = None


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        wrapper: module in wrappers/.
        repository: owner/name, and the folder owner+name among the checkouts.
        file: the checkpoint in it.
        convention: what is its own about it.
        own: makes its own code's functions of the network; None where it is refused.
        data: "fashion", "fashion-32", "mnist", "mnist-32", "swiss-roll", "moons", "names", "circle", "signals", "states",
            "digits", or "none".
        sampler: our word for it.
        refused: why it is not measured, where it is not.
        paths: folders of the repository that its modules are imported from.
        first: of a table of steps, the last that its sampler visits.
        stochastic: whether its sampler draws noise.
        to_the_end: whether it draws noise after its last step too.
        commit: of the checkout, where its newest one does not hold the network.
    """

    wrapper: str
    repository: str
    file: str
    convention: str
    own: Callable[[Any], Own] | None = None
    data: str = "none"
    sampler: str = "euler:25"
    refused: str = ""
    paths: tuple[str, ...] = field(default=("",))
    first: int = 0
    stochastic: bool = True
    to_the_end: bool = False
    commit: str = ""


def ddpm(betas: Tensor, predicted: Predicted, first: int = 0, stochastic: bool = True, to_the_end: bool = False) -> Own:
    """The DDPM of a hundred tutorials, with their tables in float32: x_t = sqrt(ab) x0 + sqrt(1 - ab) eps, and Algorithm 2."""
    alphas, bars = 1 - betas, (1 - betas).cumprod(0)
    count = len(betas)

    def noised(x0: Tensor, eps: Tensor, t: int) -> Tensor:
        return bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * eps

    def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
        for t in reversed(range(first, count)):
            eps = predicted(x, t, label)
            x = (x - (1 - alphas[t]) / (1 - bars[t]).sqrt() * eps) / alphas[t].sqrt()
            x = x + betas[t].sqrt() * z(x) if stochastic and (to_the_end or t > first) else x
        return x

    steps = [first, count // 20, count // 4, count // 2, 3 * count // 4, count - 1]
    return Own(noised, predicted, [(t, (t + 1) / count) for t in steps], sample)


def flow(velocity: Predicted, to_data: bool, steps: int = 50) -> Own:
    """A linear flow, and its Euler loop: t = 1 is data where `to_data`."""

    def noised(x0: Tensor, eps: Tensor, t: float) -> Tensor:
        return t * x0 + (1 - t) * eps if to_data else (1 - t) * x0 + t * eps

    def predicted(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        v = velocity(x, t, label)
        return x - t * v if to_data else x + (1 - t) * v

    def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
        for i in range(steps):
            t = i / steps if to_data else 1 - i / steps
            x = x + (1 if to_data else -1) / steps * velocity(x, t, label)
        return x

    times = [0.02, 0.1, 0.3, 0.5, 0.8, 0.95]
    return Own(noised, predicted, [(1 - t if to_data else t, t) for t in times], sample)


def _niuwengang(network: Any) -> Own:
    def predicted(x: Tensor, t: int, label: Tensor | None) -> Tensor:
        answer: Tensor = network(x, (torch.ones(len(x), 1) * t).long())
        return answer

    return ddpm(torch.linspace(1e-4, 0.02, 1000), predicted)


def _chookcurry(network: Any) -> Own:
    return flow(lambda x, t, y: network(x, torch.full((len(x), 1, 1, 1), t), y), to_data=True)


def _blaise(network: Any) -> Own:
    return flow(lambda x, t, y: network(x, torch.full((len(x), 1), t), y), to_data=True)


def _hiscolor(network: Any) -> Own:
    # Its training draws t from 1 … 999, its sampler goes down to 0.
    return ddpm(torch.linspace(1e-4, 2e-2, 1000), lambda x, t, y: network(x, torch.full((len(x),), t)))


def _willdalh(network: Any) -> Own:
    from superminddpm import ddpm_schedules

    tables = ddpm_schedules(1e-4, 0.02, 10)
    return ddpm(1 - tables["alpha_t"], lambda x, t, y: network(x, t), first=1)


def _muyazrj(network: Any) -> Own:
    from config import betas

    return ddpm(betas, lambda x, t, y: network(x, torch.full((len(x),), t)))


def _oscar(network: Any) -> Own:
    def velocity(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        return (x - network(x, torch.full((len(x),), t))) / t

    return flow(velocity, to_data=False)


def _oscar_velocity(network: Any) -> Own:
    return flow(lambda x, t, y: network(x, torch.full((len(x),), t)), to_data=False)


def _meanflow(network: Any) -> Own:
    def velocity(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        return (x - network(x, torch.full((len(x),), t), torch.zeros(len(x)))) / t

    return flow(velocity, to_data=False)


def _zoe(network: Any) -> Own:
    def predicted(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        answer: Tensor = network(x, torch.full((len(x), 1), t))
        return answer

    def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
        for i in reversed(range(1, 51)):
            t, u = (1 - 1e-3) * i / 50, (1 - 1e-3) * (i - 1) / 50
            eps = predicted(x, t, label)
            x = (1 - u) / (1 - t) * (x - t * eps) + u * eps
        return x

    times = [0.02, 0.1, 0.3, 0.5, 0.8, 0.95]
    return Own(lambda x0, eps, t: (1 - t) * x0 + t * eps, predicted, [(t, t) for t in times], sample)


def _in_steps(betas: Tensor, first: int = 0, stochastic: bool = True) -> Callable[[Any], Own]:
    """A DDPM whose network takes a whole step, and a label where it has one."""

    def own(network: Any) -> Own:
        def predicted(x: Tensor, t: int, label: Tensor | None) -> Tensor:
            step = torch.full((len(x),), t)
            answer: Tensor = network(x, step) if label is None else network(x, step, label)
            return answer

        return ddpm(betas, predicted, first, stochastic)

    return own


def _yichizz(network: Any) -> Own:
    from diffusion_mnist.model_ddpm import ddpm_schedules

    table = ddpm_schedules(1e-4, 0.02, 1000)["beta_t"]
    return ddpm(table, lambda x, t, y: network(x, torch.full((len(x),), t / 1000)), first=1)


def _altroot(network: Any) -> Own:
    # Its sampler stops at step 1, and draws noise there too.
    return ddpm(
        torch.linspace(1e-4, 0.02, 1000),
        lambda x, t, y: network(x, torch.full((len(x),), t)),
        first=1,
        to_the_end=True,
    )


def _minidiffusion(betas: Tensor) -> Callable[[Any], Own]:
    """minDiffusion's descendants: step i is given as i / n_T, and the table has a row before the first."""
    return lambda network: ddpm(betas, lambda x, t, y: network(x, torch.full((len(x),), t / 1000)), first=1)


def _danielyhzhao(network: Any) -> Own:
    return ddpm(torch.linspace(1e-4, 0.02, 100), lambda x, t, y: network(x, y))


def _rvioleck(network: Any) -> Own:
    return ddpm(torch.linspace(1e-4, 0.02, 100), lambda x, t, y: network(x, (torch.ones(len(x), 1) * t).long()))


def _column_flow(network: Any) -> Own:
    def velocity(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        time = torch.full((len(x), 1), t)
        answer: Tensor = network(x, time) if label is None else network(x, time, label)
        return answer

    return flow(velocity, to_data=True)


def _jeongeun(network: Any) -> Own:
    return flow(lambda x, t, y: network(torch.full((len(x), 1), t), x), to_data=True)


def _argasz(denoiser: Any) -> Own:
    """Its `denoise` and `build_sigma_schedule`, and the first 50 of Euler's steps to them; t counts as ours does."""
    data, low, high = 0.6627, 0.002, 80.0

    def sigma_of(t: float) -> Tensor:
        return torch.tensor(low * (high / low) ** t)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + data**2
        answer = denoiser.network(x / total.sqrt(), (torch.log(sigma) / 4).expand(len(x)))
        return data**2 / total * x + sigma * data / total.sqrt() * answer

    def predicted(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        return (x - denoised(x, sigma_of(t))) / sigma_of(t)

    def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
        x = x * high
        for i in range(50):
            t, u = 1 - i / 50, 1 - (i + 1) / 50
            x = x + (sigma_of(u) - sigma_of(t)) * predicted(x, t, label)
        return x

    times = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95]
    return Own(lambda x0, eps, t: x0 + sigma_of(t) * eps, predicted, [(t, t) for t in times], sample)


def _opennumerics(network: Any) -> Own:
    """Its backward SDE by Euler–Maruyama, in 200 steps; beta_max was 3 when the file was saved, and is 20 today."""
    frequencies = 2 * torch.pi * 2 ** torch.arange(8)

    def beta(t: float) -> float:
        return 0.001 + t * 2.999

    def score(x: Tensor, t: float) -> Tensor:
        turns = frequencies * torch.full((len(x), 1), t)
        answer: Tensor = network(torch.cat([x, turns.sin(), turns.cos()], 1))
        return answer

    def spread(t: float) -> Tensor:
        return (1 - torch.exp(torch.tensor(-0.001 * t - 1.4995 * t**2))).sqrt()

    def noised(x0: Tensor, eps: Tensor, t: float) -> Tensor:
        return (1 - spread(t) ** 2).sqrt() * x0 + spread(t) * eps

    def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
        for i in range(200):
            b = beta(1 - i / 200)
            x = x + (b * x / 2 + b * score(x, 1 - i / 200)) / 200 + (b / 200) ** 0.5 * z(x)
        return x

    times = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95]
    return Own(noised, lambda x, t, y: -spread(t) * score(x, t), [(t, t) for t in times], sample)


def _priyansh(network: Any) -> Own:
    from tab_ddpm.gaussian_multinomial_diffsuion import get_named_beta_schedule

    betas = torch.from_numpy(get_named_beta_schedule("cosine", 1000)).float()
    return _in_steps(betas)(network)


def _in_places(count: int, answer: str = "eps") -> Callable[[Any], Predicted]:
    """Our model's answer at the steps 0 … count - 1 of its table."""

    def ours(model: Any) -> Predicted:
        def asked(x: Tensor, t: Any, label: Tensor | None) -> Tensor:
            found: Tensor = getattr(model(x, torch.tensor((t + 1) / count, dtype=torch.float64), label), answer)
            return found

        return asked

    return ours


def _gemini(network: Any) -> Own:
    """DDPM with the posterior's variance."""
    betas = torch.linspace(1e-4, 0.02, 1000)
    bars = (1 - betas).cumprod(0)

    def predicted(x: Tensor, t: int, label: Tensor | None) -> Tensor:
        assert label is not None
        answer: Tensor = network(x, (torch.ones(len(x), 1) * t).long(), label.reshape(len(x), -1))
        return answer

    def loop(predicted: Predicted) -> Sample:
        def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
            for t in reversed(range(1000)):
                x = (x - betas[t] / (1 - bars[t]).sqrt() * predicted(x, t, label)) / (1 - betas[t]).sqrt()
                x = x + ((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]).sqrt() * z(x) if t else x
            return x

        return sample

    own = ddpm(betas, predicted)
    return replace(own, sample=loop(predicted), replay=lambda model: loop(_in_places(1000)(model)))


def _seljak(network: Any) -> Own:
    """Its midpoint steps."""

    def velocity(x: Tensor, t: float, label: Tensor | None) -> Tensor:
        answer: Tensor = network(torch.full((len(x), 1), t), x)
        return answer

    def ours(model: Any) -> Predicted:
        return lambda x, t, y: -model(x, torch.tensor(1 - t, dtype=torch.float64)).velocity

    def loop(velocity: Predicted) -> Sample:
        def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
            for i in range(20):
                middle = x + velocity(x, i / 20, label) / 40
                x = x + velocity(middle, i / 20 + 1 / 40, label) / 20
            return x

        return sample

    own = flow(velocity, to_data=True)
    return replace(own, sample=loop(velocity), replay=lambda model: loop(ours(model)))


def _armankhoshnevis(network: Any) -> Own:
    """Its sampler counts (k + 1) / 500 from -1 to 1; its training had k / 499."""

    def predicted(x: Tensor, t: int, label: Tensor | None) -> Tensor:
        now = 2 * (torch.full((len(x), 1), (t + 1) / 500) - 0.5)
        answer: Tensor = network(torch.cat([x, now], 1))
        return answer

    return ddpm(torch.linspace(1e-4, 0.02, 500), predicted)


def _joker(network: Any) -> Own:
    """Its loop takes a thousandth of the predicted noise off, 999 times."""

    def noised(x0: Tensor, eps: Tensor, t: int) -> Tensor:
        alpha = 1 - torch.tensor(t) / 1000
        return alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps

    def predicted(x: Tensor, t: int, label: Tensor | None) -> Tensor:
        answer: Tensor = network(x, torch.tensor([t]).float().view(-1, 1).expand(len(x), 1))
        return answer

    def loop(predicted: Predicted) -> Sample:
        def sample(x: Tensor, label: Tensor | None, z: Callable[[Tensor], Tensor]) -> Tensor:
            for t in reversed(range(1, 1000)):
                x = x - predicted(x, t, label) / 1000
            return x

        return sample

    def ours(model: Any) -> Predicted:
        return lambda x, t, y: model(x, torch.tensor(t / 999, dtype=torch.float64)).eps

    times = [(t, t / 999) for t in (1, 50, 250, 500, 750, 999)]
    return Own(noised, predicted, times, loop(predicted), lambda model: loop(ours(model)))


_MNIST_DDPM, _OSCAR = "niuwengang/mnist_ddpm", "OscarW42/A2-Flowmatching"
_RPW = "rpw1134/diffusion-model-experiment"
CASES = (
    Case(
        "niuwengang_fashion",
        _MNIST_DDPM,
        "ddpm_fashion.pt",
        "whole steps (B, 1) into an embedding",
        _niuwengang,
        "fashion",
        "ddpm:25",
    ),
    Case("niuwengang_mnist", _MNIST_DDPM, "ddpm_mnist.pt", "the same", _niuwengang, "mnist", "ddpm:25"),
    Case(
        "chookcurry",
        "chookcurry/flow-matching",
        "notebooks/mnist/unet.pt",
        "t = 1 is data, null class 10",
        _chookcurry,
        "mnist-32",
        paths=("src",),
    ),
    Case(
        "blaise",
        "Blaise143/stochastic-interpolant-diffusion",
        "checkpoints/flow_model.pth",
        "t = 1 is data, label None",
        _blaise,
        "mnist",
    ),
    Case(
        "muyazrj",
        "MuyazRJ/mnist-diffusion-unet",
        "model_dict/mnist_unet.pth",
        "whole steps (B,), cosine betas",
        _muyazrj,
        "mnist",
        "ddpm:25",
    ),
    Case(
        "willdalh",
        "willdalh/minDiffusion-fork",
        "ddpm_mnist.pth",
        "11 steps in buffers, pixels ±1/2, no time",
        _willdalh,
        "mnist",
        "ddpm:11",
        first=1,
    ),
    Case(
        "hiscolor",
        "hiscolor/DDPM-Simple",
        "diffusion_model.pth",
        "points of the plane, steps as floats",
        _hiscolor,
        "swiss-roll",
        "ddpm:25",
    ),
    Case("oscar_3", _OSCAR, "pt_3_model.pt", "vectors of 32, t = 0 is data", _oscar_velocity),
    Case("oscar_4", _OSCAR, "pt_4_model.pt", "vectors of 32, predicts the data", _oscar),
    Case("oscar_meanflow_gau", _OSCAR, "gau_32d_meanflow.pt", "MeanFlow: (x, t, horizon)", _meanflow),
    Case("oscar_meanflow_sr", _OSCAR, "sr_32d_meanflow.pt", "the same", _meanflow),
    Case(
        "zoe2002wu",
        "zoe2002wu/Inference-Time",
        "diffusion_model.pt",
        "paths (steps, 2), t up to .999",
        _zoe,
        sampler="ddim:25",
        refused="it predicts noise on a straight path: at t = 1, where samplers here start, its answer says nothing of the data",
    ),
    Case(
        "vivienlam",
        "VivienLam/signal-generation-pytorch",
        "checkpoints/ddpm.pt",
        "signals of 100, 100 steps, t / 100 inside",
        _in_steps(torch.linspace(1e-4, 0.02, 100), stochastic=False),
        "signals",
        "ddpm:25",
        stochastic=False,
    ),
    Case(
        "rpw1134_mnist",
        _RPW,
        "mnist_diffusion_model_conditioned.pth",
        "whole steps, classes, null class 10",
        _in_steps(torch.linspace(1e-4, 0.02, 1000)),
        "mnist",
        "ddpm:25",
    ),
    Case(
        "rainfue",
        "Rainfue/Diffusion",
        "ddpm_mnist500.pth",
        "its class is in a script that trains",
        _in_steps(torch.linspace(1e-4, 0.02, 1000), first=1),
        "mnist",
        "ddpm:25",
        first=1,
    ),
    Case(
        "yichizz",
        "Yichizz/hot_vs_cold_diffusion",
        "model/ddpm_mnist_starter.pth",
        "gt., 1,001 rows in buffers, i / 1000, pixels ±1/2",
        _yichizz,
        "mnist",
        "ddpm:25",
        first=1,
    ),
    Case(
        "altroot",
        "ALTroot-user/try_DDPM",
        "models/ddpm_mnist.pth",
        "whole steps as a second channel",
        _altroot,
        "mnist",
        "ddpm:25",
        first=1,
        to_the_end=True,
    ),
    Case(
        "maxtalberg",
        "MaxTalberg/Diffusion-Model",
        "src/ddpm_mnist.pth",
        "gt., 1,001 rows in buffers, i / 1000, pixels ±1/2",
        _minidiffusion(0.0199 * torch.arange(1001) / 1000 + 1e-4),
        "mnist",
        "ddpm:25",
        paths=("src",),
        first=1,
    ),
    Case(
        "sdaloglu",
        "sdaloglu/diffusion_with_entropy",
        "contents_geo/ddpm_mnist_geo.pth",
        "the same, geometric betas, its class in a notebook",
        _minidiffusion(1e-4 * 200.0 ** (torch.arange(1001) / 1000)),
        "mnist",
        "ddpm:25",
        first=1,
    ),
    Case(
        "danielyhzhao",
        "Danielyhzhao/DCGANvsDDPM",
        "pth/ddpm_unet_best.pth",
        "a label as channels, no time, 100 steps",
        _danielyhzhao,
        "mnist",
        "ddpm:25",
    ),
    Case(
        "swapnil",
        "SwapnilPurohit/Generative-and-Agentic-AI-SOS-26",
        "models/ddpm_mnist.pth",
        "200 steps",
        _in_steps(torch.linspace(1e-4, 0.02, 200)),
        "mnist",
        "ddpm:25",
    ),
    Case(
        "rvioleck",
        "Rvioleck/diffusion_toy",
        "checkpoints/ddpm_fashion.pt",
        "100 whole steps (B, 1) into an embedding",
        _rvioleck,
        "fashion",
        "ddpm:25",
    ),
    Case(
        "harryz",
        "harryz6560/GenerativeModels",
        "diffusion.pt",
        "whole steps and classes into embeddings",
        _in_steps(torch.linspace(1e-4, 0.02, 1000)),
        "fashion",
        "ddpm:25",
    ),
    Case(
        "argasz",
        "Argasz/miniproject1_diffusion",
        "diffusion_model20251126_120540.pth",
        "EDM's preconditioning, log(sigma) / 4",
        _argasz,
        "fashion-32",
        "ddim:25",
        commit="e8d72ea",
    ),
    Case(
        "giljorge",
        "giljorge0/makemore-flow",
        "src/checkpoints/flow.pt",
        "points of the plane, t = 1 is data, (B, 1)",
        _column_flow,
        "names",
        paths=("src",),
    ),
    Case(
        "jeongeun",
        "jeongeun980906/RL-Finetunning-Flow-matching-model",
        "flow.pth",
        "(t, x), points of the plane, its class in a notebook",
        _jeongeun,
        "moons",
    ),
    Case(
        "opennumerics",
        "OpenNumerics/SGM-for-porous-media",
        "models/score_model_embedded.pth",
        "a score, its time embedded outside, β from 0 to 3",
        _opennumerics,
        "circle",
        "euler:25",
        paths=("old", ""),
    ),
    Case(
        "priyansh",
        "priyansh-iitd26/HEA-TabDDPM",
        "checkpoints/model_ema.pt",
        "a table of 13 columns, 4 classes, cosine betas",
        _priyansh,
        "none",
        "ddpm:25",
    ),
    Case(
        "jovnic",
        "Jovnic/Advanced-Image-Generation",
        "diffusion.pth",
        "200 steps as a second channel, k / 199",
        lambda network: ddpm(
            torch.linspace(1e-4, 0.02, 200), lambda x, t, y: network(x, torch.full((len(x),), t / 199))
        ),
        "mnist",
        "ddpm:25",
    ),
    Case(
        "mashathepotato",
        "mashathepotato/noise-efficient-diffusion-model",
        "models/diffusion_model.pth",
        "three channels, no time, 100 steps, its class in a notebook",
        refused="it predicts noise of one size for every state: it learned nothing, and no level can be read from it",
    ),
    Case(
        "shylin",
        "Shylin26/diffusion_from_scratch",
        "model.pth",
        "300 whole steps into an embedding, pixels 0 … 1",
        _in_steps(torch.linspace(1e-4, 0.02, 300)),
        "mnist",
        "ddpm:25",
    ),
    Case(
        "seljak",
        "SebastianSeljak/Protein_Flow_Matching",
        "model(1019).pth",
        "(t, x), pairs of angles, t = 1 is data, (B, 1)",
        _seljak,
    ),
    Case(
        "armankhoshnevis",
        "armankhoshnevis/DeepLearning-Project-4-Generative-Modeling-using-Diffusion-Models",
        "checkpoints/denoiser.pt",
        "points of the plane, its time from -1 to 1 a third feature",
        _armankhoshnevis,
        "states",
        "ddpm:25",
    ),
    Case(
        "gemini",
        "Gemini9603/CMPUT328-Assignment5",
        "diffusion.pt",
        "whole steps (B, 1) and labels (B, 1) into embeddings",
        _gemini,
        "fashion",
        "ddpm:25",
    ),
    Case(
        "joker7822",
        "Joker7822/num4",
        "diffusion_model.pth",
        "four digits, alphas_cumprod 1 - t / 1000, its class within a function",
        _joker,
        "digits",
        "ddpm:25",
    ),
    Case(
        "",
        "phinate/flow-interpolation",
        "flow.pt",
        "a normalizing flow of nflows",
        refused="it maps noise to data in one pass: there are no noise levels",
    ),
    Case(
        "",
        "sainavaneet/imitation-learning-Franka",
        "models/diffusion_model.pth",
        "3 features in, 7 out",
        refused="a regression that its file's name calls a diffusion: it takes no time, and its answer is not like its state",
    ),
    Case(
        "",
        "dalenhsiao/Diffusion-for-Molecules-Generation",
        "diffusion_models/diffusion_model.pth",
        "a graph network: (x, t, edge_index)",
        refused="its states are graphs of several sizes",
    ),
    Case(
        "",
        "miluosi/diffusion-for-learning",
        "ddpm_model.pth",
        "backbone., whole steps of a table that is made at run time",
        refused="no class of its name in the repository has the file's shapes, and its betas are in none of its scripts",
    ),
    Case(
        "",
        "RaccoonLasagna/Combo-Project",
        "diffusion.pth",
        "a whole pickled module",
        refused="it holds code, which is not run",
    ),
    Case(
        "",
        "Natthaphon-Sangmuang/AIE311_diffusion_module",
        "ckpt.pth",
        "module., a score under sigma^t dw",
        refused="the repository holds the file alone, and no code",
    ),
    Case(
        "",
        "TechTinkerPradhan/diffusion-model-energy-guided-",
        "models/diffusion_model.pth",
        "vectors of 60, predicts the data",
        refused="it adds the noise of one step, √β of at most .02, at every t: no state is noise",
    ),
    Case(
        "",
        "UncleWQ/FYP",
        "diffusion_model.pt",
        "no time",
        refused="it was trained at one noise level, the last β",
    ),
    Case(
        "",
        "maleehaarif/GANs-and-Diffusion-Models---Network-Packet-Generation",
        "diffusion_model.pth",
        "vectors of 78, no time",
        refused="it was trained at one noise level, .05",
    ),
    Case(
        "",
        "kishpish/aml-energy-landscape",
        "models/score_model.pt",
        "an energy, whose slope is a score",
        refused="it answers with one number a state, and was trained up to a noise of .3",
    ),
    Case(
        "",
        "MortenHS/FlowMatching",
        "checkpoints/fm_model.pt",
        "a flow of tracks (steps, 4)",
        refused="its training starts from uniform noise, not from a Gaussian",
    ),
    Case(
        "",
        "yasin-esfandiari/deepdiffusion_seminar",
        "checkpoints/ckpt.pth",
        "a list: network, optimizer, epoch, step, average",
        refused="its states are partly given: it sorts a list, and noises only what is asked for",
    ),
    Case(
        "",
        "HaouchatY/diffusion_tomography",
        "ddpm_mnist.pth",
        "a Git LFS pointer",
        refused="the file itself is not in the repository",
    ),
    Case("", "sasekazu/sed-gen-web", "unet.onnx", "ONNX", refused="a graph of another library, which is not run"),
    Case(
        "",
        _RPW,
        "diffusion_model.pth",
        "points of the plane",
        refused="the file is of another version of its class than the repository's newest commit holds",
    ),
    Case(
        "",
        "Yichizz/hot_vs_cold_diffusion",
        "model/ddm_mnist.pth",
        "a cold diffusion",
        refused="it takes fading masks off a picture, and no noise: there is no noise level to measure",
    ),
    Case(
        "",
        "Rainfue/Diffusion",
        "diffusion_model.pth",
        "conv1 … conv5, time_mlp",
        refused="no class in the repository has these parts",
    ),
    Case(
        "kailaisun",
        "kailaisun/Classifier-free-DDPM-pytorch",
        "results/model-69.pt",
        "denoise_fn., EMA, a vector as condition",
        refused="its condition is a vector from a file that is not there, and guidance is mixed inside the network",
    ),
    Case(
        "",
        "xdong99/ScoreBasedGenerativeModels",
        "ckpt.pth",
        "module., an LSTM over paths",
        refused="the repository's newest commit does not hold the network's code",
    ),
    Case(
        "", "EchoRaven/diffusion", "diffusion.pth", "a whole pickled module", refused="it holds code, which is not run"
    ),
)
