"""Files that other libraries' own code trained or saved, against what `ns.load` makes of them.

    pip install denoising-diffusion-pytorch k-diffusion torchcfm    # in an environment of its own, with torchvision
    git clone https://github.com/openai/guided-diffusion
    python benchmarks/parity_files.py [--guided-diffusion guided-diffusion] [--only lucidrains]

All weights are random, those that begin at zero too. Prints one line a check with the largest relative difference of
the predictions, and fails above 1e-5. Without guided-diffusion's sources its checks are left out, and said to be.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import noiseshift as ns

TIMES = (0.05, 0.3, 0.62, 0.95)


def randomised(network: nn.Module, std: float = 0.1) -> Any:
    """The network in evaluation mode, every weight moved."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return network.eval()


def check(name: str, found: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    difference = float((found - theirs).abs().max() / theirs.abs().max())
    print(f"{name:78s} {difference:.1e}", flush=True)
    if not difference <= bound:
        raise SystemExit(f"{name}: {difference:.1e} is more than {bound:g}")


def same(name: str, found: object, expected: object) -> None:
    print(f"{name:78s} {found}", flush=True)
    if found != expected:
        raise SystemExit(f"{name}: {found!r}, expected {expected!r}")


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# denoising-diffusion-pytorch ---------------------------------------------------------------------------------------


def lucidrains(folder: Path) -> None:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    objectives = {"pred_noise": "epsilon", "pred_x0": "x0", "pred_v": "v_prediction"}
    for objective, prediction in objectives.items():
        for betas, unet, more in (
            ("sigmoid", {}, {}),
            ("cosine", {"self_condition": True}, {"min_snr_loss_weight": True}),
            ("linear", {"full_attn": (True, False), "attn_heads": 2}, {"timesteps": 400}),
        ):
            network = Unet(16, dim_mults=(1, 2), **unet)
            diffusion = GaussianDiffusion(network, image_size=16, objective=objective, beta_schedule=betas, **more)
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                trainer = Trainer(
                    diffusion, str(pictures), train_num_steps=1, calculate_fid=False, results_folder=str(folder)
                )
                trainer.train()
            theirs = randomised(trainer.ema.ema_model)
            trainer.save("last")
            name = f"lucidrains Trainer, {objective}, {betas} { ({**unet, **more}) }"
            found = ns.load(folder / "model-last.pt", size=16)
            same(f"{name}: what is predicted", found.card.prediction, prediction)
            _lucidrains_predictions(name, found, theirs)
    torch.save(theirs.state_dict(), folder / "diffusion.pt")
    _lucidrains_predictions(
        "lucidrains, a GaussianDiffusion's state dict", ns.load(folder / "diffusion.pt", size=16), theirs
    )
    _with_classes(folder)
    _of_signals(folder)
    with torch.device("meta"):
        network = Unet(64, dim_mults=(1, 2, 4, 8))
        from noiseshift.networks import lucidrains as ours

        mine = ours.Unet(ours.config_from_state(network.state_dict()))
    same("lucidrains Unet(64, (1, 2, 4, 8)), parameters", parameters(mine), parameters(network))


def _lucidrains_predictions(name: str, found: ns.Checkpoint, theirs: Any) -> None:
    x = torch.randn(2, *found.shape)
    for t in found.model.snap(torch.tensor(TIMES, dtype=torch.float64)):
        step = torch.full((2,), round(float(t) * theirs.num_timesteps) - 1)
        with torch.no_grad():
            said, ours = theirs.model_predictions(x, step), found.model(x, t)
        check(f"{name}, step {int(step[0])}", ours.x0, said.pred_x_start)
        check(f"{name}, step {int(step[0])}, noise", ours.eps, said.pred_noise)


def _with_classes(folder: Path) -> None:
    from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

    diffusion = randomised(GaussianDiffusion(Unet(16, num_classes=5, dim_mults=(1, 2)), image_size=16))
    torch.save(diffusion.state_dict(), folder / "classes.pt")
    found = ns.load(folder / "classes.pt", size=16)
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([1, 4])
    for t in found.model.snap(torch.tensor(TIMES, dtype=torch.float64)):
        step = torch.full((2,), round(float(t) * 1000) - 1)
        with torch.no_grad():
            given, null_class = (diffusion.model(x, step, y, cond_drop_prob=p) for p in (0.0, 1.0))
            full, null = found.model.predict(x, t, y, [ns.Branch(), ns.Branch(condition=False)])
        check(f"lucidrains with classes, step {int(step[0])}", full.eps, given)
        check(f"lucidrains with classes, step {int(step[0])}, the null class", null.eps, null_class)


def _of_signals(folder: Path) -> None:
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D

    for unet in ({}, {"self_condition": True}, {"learned_sinusoidal_cond": True}, {"attn_heads": 2}):
        diffusion = GaussianDiffusion1D(
            Unet1D(16, dim_mults=(1, 2), channels=4, **unet), seq_length=32, objective="pred_v"
        )
        torch.save(randomised(diffusion).state_dict(), folder / "signals.pt")
        found = ns.load(
            folder / "signals.pt", size=32, card={"heads": unet["attn_heads"]} if "attn_heads" in unet else None
        )
        same(f"lucidrains signals {unet}: states", found.shape, (4, 32))
        _lucidrains_predictions(f"lucidrains signals {unet}", found, diffusion)


# guided-diffusion ---------------------------------------------------------------------------------------------------

ADM = {"num_res_blocks": 2, "learn_sigma": True, "use_scale_shift_norm": True, "resblock_updown": True}
RELEASED: dict[str, dict[str, Any]] = {
    # MODEL_FLAGS of guided-diffusion's README.
    "64x64_diffusion": {
        **ADM, "attention_resolutions": "32,16,8", "class_cond": True, "image_size": 64, "num_channels": 192,
        "num_head_channels": 64, "num_res_blocks": 3, "use_new_attention_order": True, "noise_schedule": "cosine",
    },
    "128x128_diffusion": {
        **ADM, "attention_resolutions": "32,16,8", "class_cond": True, "image_size": 128, "num_channels": 256,
        "num_heads": 4,
    },
    "256x256_diffusion": {
        **ADM, "attention_resolutions": "32,16,8", "class_cond": True, "image_size": 256, "num_channels": 256,
        "num_head_channels": 64,
    },
    "256x256_diffusion_uncond": {
        **ADM, "attention_resolutions": "32,16,8", "image_size": 256, "num_channels": 256, "num_head_channels": 64,
    },
    "512x512_diffusion": {
        **ADM, "attention_resolutions": "32,16,8", "class_cond": True, "image_size": 512, "num_channels": 256,
        "num_head_channels": 64,
    },
}  # fmt: skip


def adm(folder: Path, sources: Path) -> None:
    package = types.ModuleType("guided_diffusion")  # their __init__ wants nothing, their setup.py wants MPI
    package.__path__ = [str(sources / "guided_diffusion")]
    sys.modules["guided_diffusion"] = package
    scripts: Any = importlib.import_module("guided_diffusion.script_util")
    usual = scripts.model_and_diffusion_defaults()
    small = {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "learn_sigma": True}
    for flags, card in (
        ({}, {"heads": 4}),
        ({"noise_schedule": "cosine"}, {"heads": 4, "schedule": {"kind": "discrete", "betas": "cosine"}}),
        ({"resblock_updown": True, "class_cond": True, "num_head_channels": 16}, {"head_channels": 16}),
        ({"use_new_attention_order": True, "num_heads": 2}, {"heads": 2, "attention_order": "new"}),
        ({"use_scale_shift_norm": False, "learn_sigma": False, "predict_xstart": True}, {"heads": 4, "prediction": "x0"}),
    ):  # fmt: skip
        network, diffusion = scripts.create_model_and_diffusion(**{**usual, **small, **flags})
        torch.save(randomised(network).state_dict(), folder / "ema.pt")
        found = ns.load(folder / "ema.pt", card={"family": "adm", "size": 64, **card})
        _adm_predictions(f"guided-diffusion {flags}", found, network, diffusion)
    for name, flags in RELEASED.items():
        with torch.device("meta"):
            network = scripts.create_model_and_diffusion(**{**usual, **flags})[0]
            mine = _adm_of(network)
        same(f"guided-diffusion {name}, parameters", parameters(mine), parameters(network))
        card = _card_of_released(network)
        same(f"guided-diffusion {name}, pixels known by shapes", card.size, flags["image_size"])
        heads = (card.heads, card.head_channels, card.attention_order == "new", card.schedule.get("betas", "linear"))
        flagged = (
            flags.get("num_heads"),
            flags.get("num_head_channels"),
            flags.get("use_new_attention_order", False),
            flags.get("noise_schedule", "linear"),
        )
        same(f"guided-diffusion {name}, heads, their channels, order, betas", heads, flagged)


def _adm_of(network: nn.Module) -> nn.Module:
    from noiseshift.networks.adm import Adm, config_from_state

    return Adm(config_from_state(network.state_dict()))


def _card_of_released(network: nn.Module) -> Any:
    from noiseshift.checkpoints.formats.adm import card_of

    return card_of(network.state_dict())


def _adm_predictions(name: str, found: ns.Checkpoint, network: nn.Module, diffusion: Any) -> None:
    x, y = torch.randn(2, 3, 64, 64), torch.tensor([1, 7])
    for t in found.model.snap(torch.tensor(TIMES, dtype=torch.float64)):
        step = torch.full((2,), round(float(t) * 1000) - 1)
        classes = {"y": y} if found.classes else {}
        with torch.no_grad():
            theirs = diffusion.p_mean_variance(network, x, step, clip_denoised=False, model_kwargs=classes)
            ours = found.model(x, t, y if found.classes else None)
        check(f"{name}, step {int(step[0])}", ours.x0, theirs["pred_xstart"])


# torchcfm -----------------------------------------------------------------------------------------------------------


def torchcfm(folder: Path) -> None:
    from torchcfm.models.unet.unet import UNetModelWrapper

    for options, card in (
        ({"num_heads": 4, "num_head_channels": 16}, {"head_channels": 16}),
        ({"class_cond": True, "num_classes": 10}, {"heads": 1}),
    ):
        network = randomised(UNetModelWrapper(dim=(3, 32, 32), num_channels=32, num_res_blocks=1, **options))
        # As examples/images/cifar10/train_cifar10.py saves them, on one device and on several.
        for averaged in (network, nn.DataParallel(network)):
            begun = copy.deepcopy(averaged.state_dict())
            content = {
                "net_model": {k: 0 * v for k, v in begun.items()},
                "ema_model": begun,
                "sched": {},
                "optim": {},
                "step": 1,
            }
            torch.save(content, folder / "cfm.pt")
            found = ns.load(folder / "cfm.pt", card={"size": 32, **card})
            x, y = torch.randn(2, 3, 32, 32), torch.tensor([1, 7]) if found.classes else None
            for t in TIMES:
                with torch.no_grad():
                    theirs = network(torch.full((2,), 1 - t), x, y)
                    ours = -found.model(x, torch.tensor(t, dtype=torch.float64), y).velocity
                check(f"torchcfm {type(averaged).__name__} {options}, t {1 - t:.2f}", ours, theirs)
    with torch.device("meta"):  # the network of that example
        network = UNetModelWrapper((3, 32, 32), 128, 2, [1, 2, 2, 2], num_heads=4, num_head_channels=64)
        mine = _adm_of(network)
    same("torchcfm CIFAR-10, parameters", parameters(mine), parameters(network))
    card = _card_of_released(network)
    same("torchcfm CIFAR-10, known by shapes", (card.family, card.size, card.head_channels), ("torchcfm", 32, 64))


# k-diffusion --------------------------------------------------------------------------------------------------------

SHARED = {
    "input_channels": 1, "input_size": [28, 28], "sigma_data": 0.6162, "sigma_min": 0.01, "sigma_max": 80,
    "sigma_sample_density": {"type": "cosine-interpolated"}, "dropout_rate": 0.05,
}  # fmt: skip
TRANSFORMERS = {"patch_size": [4, 4]}
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "image_v1": (
        {"mapping_out": 32, "depths": [1, 1], "channels": [32, 64], "self_attn_depths": [False, True], "has_variance": True},
        0,
    ),
    "image_transformer_v1": ({**TRANSFORMERS, "depth": 2, "width": 64}, 10),
    "image_transformer_v2": ({**TRANSFORMERS, "depths": [2], "widths": [64]}, 10),
}  # fmt: skip


def k_diffusion(folder: Path) -> None:
    import k_diffusion as theirs
    from safetensors.torch import save_file

    for kind, (model, classes) in KINDS.items():
        config = {"model": {"type": kind, **SHARED, **model}, "dataset": {"type": "mnist", "num_classes": classes}}
        config = theirs.config.load_config(config)
        try:
            network = randomised(theirs.config.make_model(config), 0.02)
        except ValueError as error:  # a release knows fewer than the sources do
            print(f"k-diffusion {kind}: left out, {error}")
            continue
        state = network.state_dict()
        # As train.py and convert_for_inference.py save them.
        begun = {k: 0 * v for k, v in state.items()}
        torch.save({"config": config, "model": begun, "model_ema": state, "step": 1, "elapsed": 0.1}, folder / "k.pth")
        save_file(state, folder / "k.safetensors", metadata={"config": json.dumps(config)})
        denoiser = theirs.config.make_denoiser_wrapper(config)(network)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # theirs drops out in evaluation too
        for name in ("k.pth", "k.safetensors"):
            _k_predictions(f"k-diffusion {kind} {Path(name).suffix}", ns.load(folder / name), denoiser)


def _k_predictions(name: str, found: ns.Checkpoint, denoiser: Any) -> None:
    y = torch.tensor([1, 7]) if found.classes else None
    for t in torch.tensor(TIMES, dtype=torch.float64):
        sigma = found.model.schedule(t).sigma.float().expand(2)
        x = torch.randn(2, *found.shape) * sigma[:, None, None, None]
        with torch.no_grad():
            said = denoiser(x, sigma, **({} if y is None else {"class_cond": y}))
            check(f"{name}, sigma {float(sigma[0]):.3g}", found.model(x, t, y).x0, said)
            if y is not None:
                null = found.model.predict(x, t, None, [ns.Branch(condition=False)])[0]
                said = denoiser(x, sigma, class_cond=torch.full((2,), found.classes))
                check(f"{name}, sigma {float(sigma[0]):.3g}, the null class", null.x0, said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guided-diffusion", type=Path, help="a clone of openai/guided-diffusion")
    parser.add_argument("--only", choices=["lucidrains", "adm", "torchcfm", "k-diffusion"])
    options = parser.parse_args()
    checks = {"lucidrains": lucidrains, "torchcfm": torchcfm, "k-diffusion": k_diffusion}
    if options.guided_diffusion is not None:
        checks["adm"] = lambda folder: adm(folder, options.guided_diffusion)
    elif options.only in (None, "adm"):
        print("guided-diffusion: left out, give --guided-diffusion")
    for name, run in checks.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                run(Path(folder))


if __name__ == "__main__":
    main()
