"""The reference estimator: a small network trained on forward-noised *real* data to read the level (the paper's g_phi).

Zhong, Jiang, Tao et al., arXiv 2510.12497. It is trained with t uniform, so its posterior is under a flat prior on t.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.diffusion.memory import Halving, joined
from noiseshift.diffusion.schedules import Schedule, build, describe
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.networks.level import (
    LevelConfig,
    LevelNetwork,
    check_images,
    mixture_log_density,
)
from noiseshift.networks.shapes import shapes_only
from noiseshift.reading import ReadingError, read_safetensors, read_words, reading
from noiseshift.writing import replaced_file, write_tensors
from noiseshift.writing.signatures import ESTIMATOR, signed_estimator

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step


class Network:
    """Posterior over t from a trained level network.

    `log_prob` is differentiable in x: its gradient is the classifier-based noise-awareness direction.

    Args:
        network: the trained network.
        schedule: the one that it was trained on.
        card: what it was trained on, as far as whoever trained it wrote that down.
        points: length of the grid of its posteriors, even in log-SNR.
    """

    def __init__(
        self, network: LevelNetwork, schedule: Schedule, *, card: dict[str, Any] | None = None, points: int = 512
    ):
        self.network = network.eval().requires_grad_(False)
        self.schedule = schedule
        self.card = card or {}
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

        Args:
            x: states (B, …).
            t: () or (B,), in (0, 1).
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

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write float16 weights with the schedule, shape and card in the safetensors header. Raises PlaceError (a ValueError)
        where something else than a level estimator is there, unless `overwrite`.

        Args:
            path: a .safetensors file.
            overwrite: replace whatever is there.
        """
        state = {k: v.half().contiguous() for k, v in self.network.state_dict().items()}
        about = {"schedule": describe(self.schedule), "config": self.network.config.as_dict(), "card": self.card}
        with replaced_file(path, signed_estimator, overwrite=overwrite) as fresh:
            write_tensors(fresh, state, {ESTIMATOR: json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read what `save` wrote. Raises FileNotFoundError or ValueError naming the remedy."""
        kind_and_remedy = ("level estimator", "train one with train_estimator")
        state, words = read_safetensors(path, *kind_and_remedy)
        about = read_words(words.get(ESTIMATOR), path, *kind_and_remedy)
        with reading(path, *kind_and_remedy):
            # Shapes only: the weights are the file's own tensors, whatever sizes it claims.
            with shapes_only():
                network = LevelNetwork(LevelConfig(**about["config"]))
            try:
                network.load_state_dict({key: part.float() for key, part in state.items()}, assign=True)
            except RuntimeError:
                shapes = "weights are of another shape than its card says"
                raise ReadingError(f"{path}: its {shapes}: train it again") from None
            return cls(network, build(about["schedule"]), card=about["card"])
