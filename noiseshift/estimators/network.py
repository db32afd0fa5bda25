"""The reference estimator: a small network trained on forward-noised *real* data to read the level (the paper's g_phi).

Zhong, Jiang, Tao et al., arXiv 2510.12497. It is trained with t uniform, so its posterior is under a flat prior on t.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from noiseshift import distributed
from noiseshift.data import Images, to_float
from noiseshift.diffusion.memory import Halving, joined
from noiseshift.diffusion.noise import LEVEL_TRAINING, generator, torch_generator
from noiseshift.diffusion.schedules import Schedule, build, describe
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.networks.level import (
    LevelConfig,
    LevelNetwork,
    check_images,
    mixture_log_density,
    negative_log_likelihood,
)
from noiseshift.reading import ReadingError, read_safetensors, read_words, reading

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step


class Network:
    """Posterior over t from a trained level network, on `points` times even in log-SNR.

    `log_prob` is differentiable in x: its gradient is the classifier-based noise-awareness direction. `card` says what
    the network was trained on, as far as whoever trained it wrote that down.
    """

    def __init__(
        self, network: LevelNetwork, schedule: Schedule, *, card: dict[str, Any] | None = None, points: int = 512
    ):
        self.network, self.schedule, self.card = network.eval().requires_grad_(False), schedule, card or {}
        self.halving = Halving("the level estimator")
        self.times = time_grid(schedule, points)
        self._log_snr = schedule.log_snr(self.times)
        # The network's density is per log-SNR: a grid point's mass is that times the width of its cell.
        self._log_width = torch.gradient(self._log_snr)[0].abs().log()

    @torch.no_grad()
    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """Read states x (B, C, H, W), any device; `cond` and `step` are not used: the level does not hang on them.

        Raises ValueError for another number of channels, images under 4×4, or states that are not finite.
        """
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
            raise ValueError(f"{bad} of {len(x)} states hold NaN or infinity: the model or the sampler diverged")
        log_density = mixture_log_density(self._parts(x), self._log_snr).double().cpu()
        return Posterior(self.times, torch.log_softmax(log_density + self._log_width, dim=-1))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """(B,) log p(t | x), a density in t under the flat prior, at times t () or (B,); differentiable in x.

        Its gradient in x is the classifier-based direction of Zhong, Jiang, Tao et al., arXiv 2510.12497.
        """
        t = t.double().cpu().expand(len(x)).contiguous()  # an expanded t cannot carry a tangent
        slope = torch.func.jvp(self.schedule.log_snr, (t,), (torch.ones_like(t),))[1]
        log_snr = self.schedule.log_snr(t)[:, None]
        return mixture_log_density(self._parts(x), log_snr)[:, 0] + slope.abs().log().to(x)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = check_images(x.float(), self.network.config.channels)
        parts = self.halving(self.network.to(x.device), images)
        log_weight, mean, log_sd = (joined(list(part)) for part in zip(*parts, strict=True))
        return log_weight, mean, log_sd

    def save(self, path: str | Path) -> None:
        """Write float16 weights with the schedule, shape and card in the safetensors header."""
        from safetensors.torch import save_file

        state = {k: v.half().contiguous() for k, v in self.network.state_dict().items()}
        about = {"schedule": describe(self.schedule), "config": self.network.config.as_dict(), "card": self.card}
        save_file(state, path, metadata={"noiseshift.level": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read what `save` wrote. Raises FileNotFoundError or ValueError naming the remedy."""
        said = ("level estimator", "train one with train_estimator")
        state, words = read_safetensors(path, *said)
        about = read_words(words.get("noiseshift.level"), path, *said)
        with reading(path, *said):
            # Shapes only: the weights are the file's own tensors, whatever sizes it claims.
            with torch.device("meta"):
                network = LevelNetwork(LevelConfig(**about["config"]))
            try:
                network.load_state_dict({key: part.float() for key, part in state.items()}, assign=True)
            except RuntimeError:
                shapes = "weights are of another shape than its card says"
                raise ReadingError(f"{path}: its {shapes}: train it again") from None
            return cls(network, build(about["schedule"]), card=about["card"])


@dataclass(frozen=True)
class EstimatorTraining:
    """How to train a level network; the rate rises over the first 5 % and falls to 0 as a cosine."""

    steps: int = 4000
    batch: int = 128
    learning_rate: float = 3e-3
    width: int = 16
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0


def train_estimator(
    images: Images,
    schedule: Schedule,
    config: EstimatorTraining | None = None,
    *,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    every: int = 500,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Network:
    """Train a level network on real images noised to uniform times of `schedule`.

    images (N, C, H, W) with H, W ≥ 4; their labels are not used. With a `folder`, `state.pt` is kept there after each
    `every` steps and resumed from, and `log.jsonl` grows. Each step draws from its own seed, so a resumed training is
    the uninterrupted one. `report(step, loss)` is called every step. Under torchrun each rank takes its share of every
    batch and the first writes. Raises ValueError for smaller images, a batch that the ranks cannot share, a loss that is
    not finite, or a folder that holds another training.
    """
    config = config or EstimatorTraining()
    check_images(images.pixels[:1], images.pixels.shape[1])
    network = _fresh(LevelConfig(images.pixels.shape[1], config.width), config.seed).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05, cycle_momentum=False
    )
    kept = None if folder is None else Path(folder)
    parts = {"network": network, "optimizer": optimizer, "rate": rate}
    first = _resume(kept, parts, config)
    losses: list[float] = []
    rank, share, parallel = distributed.joined()[0], distributed.share(config.batch), distributed.parallel(network)
    for step in range(first, config.steps):
        loss = _loss(parallel, images, schedule, config, step, device, share)
        losses.append(float(distributed.mean(loss)))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the level network's loss is {losses[-1]} at step {step}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        report(step, losses[-1])
        if kept is not None and rank == 0 and ((step + 1) % every == 0 or step + 1 == config.steps):
            _keep(kept, parts, config, step + 1, losses)
            losses = []
    return Network(network.cpu(), schedule, card={"training": asdict(config), "images": len(images)})


def _fresh(config: LevelConfig, seed: int) -> LevelNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LevelNetwork(config)


def _loss(
    network: nn.Module,
    images: Images,
    schedule: Schedule,
    config: EstimatorTraining,
    step: int,
    device: str | torch.device,
    share: slice,
) -> Tensor:
    source = torch_generator(generator(step, seed=config.seed, stream=LEVEL_TRAINING))
    x0 = to_float(images.pixels[torch.randint(len(images), (config.batch,), generator=source)])
    # Not closer to the ends than a reading can resolve: log-SNR runs off to infinity there.
    t = torch.rand(config.batch, generator=source).clamp(1e-3, 1 - 1e-3)
    level = schedule(t).like(x0)
    x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=source)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bf16"):
        parts = network(x[share].to(device))
    return negative_log_likelihood(parts, schedule.log_snr(t[share]).to(device))


def _resume(folder: Path | None, parts: Mapping[str, Any], config: EstimatorTraining) -> int:
    if folder is None or not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    if state.get("config") != asdict(config):
        raise ValueError(f"{folder} holds a training with other settings: give another folder, or remove that one")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _keep(folder: Path, parts: Mapping[str, Any], config: EstimatorTraining, step: int, losses: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**state, "config": asdict(config), "step": step}, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")  # atomic: an interrupted save loses nothing
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": sum(losses) / len(losses)}) + "\n")
