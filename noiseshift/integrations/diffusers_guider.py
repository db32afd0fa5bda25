"""Noise awareness guidance as a guider of diffusers' modular pipelines (experimental there: diffusers 0.42).

    from noiseshift.integrations.diffusers_guider import NoiseAwarenessGuidance
    pipeline.update_components(guider=NoiseAwarenessGuidance(scale=0.5, null_timestep=-1.0))

The denoiser must have been trained with noise-condition dropout, the dropped condition being one reserved timestep. In
diffusers "NAG" is Normalized *Attention* Guidance, another method: hence the long name.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor

_HOOK = "noiseshift.null_timestep"


class _NullTimestep(ModelHook):
    """Hands the denoiser the reserved timestep in place of its own."""

    def __init__(self, null_timestep: float):
        super().__init__()
        self.null_timestep = null_timestep

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "timestep" in kwargs:
            kwargs["timestep"] = self._null(kwargs["timestep"])
            return args, kwargs
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        if "timestep" not in names or names.index("timestep") >= len(args):
            raise ValueError(f"{type(module).__name__} takes no timestep: noise awareness guidance cannot withhold it")
        place = names.index("timestep")
        return (*args[:place], self._null(args[place]), *args[place + 1 :]), kwargs

    def _null(self, timestep: Any) -> Any:
        if isinstance(timestep, Tensor):
            return torch.full_like(timestep, self.null_timestep)
        return type(timestep)(self.null_timestep)


class NoiseAwarenessGuidance(BaseGuidance):
    """pred + scale (pred - pred_noise_uncond) + (guidance_scale - 1) (pred - pred_uncond) (arXiv 2510.12497, with CFG).

    Args:
        scale: strength of noise awareness guidance, counted from **0 = unguided**, as everywhere in noiseshift.
        null_timestep: the timestep that stood for "no noise condition" in training.
        guidance_scale: CFG in diffusers' own convention, where **1 = unguided** (it is 1 + the scale counted from 0).
        start: share of the steps before which guidance is off.
        stop: share of the steps after which it is off again.
        enabled: False gives the conditional prediction alone.
    """

    _input_predictions = ["pred_cond", "pred_noise_uncond", "pred_uncond"]  # noqa: RUF012 the base class asks for a list

    @register_to_config
    def __init__(
        self,
        scale: float = 0.5,
        null_timestep: float = -1.0,
        guidance_scale: float = 1.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ):
        super().__init__(start, stop, enabled)
        self.scale = scale
        self.null_timestep = null_timestep
        self.guidance_scale = guidance_scale

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Before each forward; the one that answers `pred_noise_uncond` gets the reserved timestep."""
        self._count_prepared += 1
        if self._current() == "pred_noise_uncond":
            HookRegistry.check_if_exists_or_initialize(denoiser).register_hook(_NullTimestep(self.null_timestep), _HOOK)

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        if self._current() == "pred_noise_uncond":
            HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(_HOOK, recurse=True)

    def prepare_inputs(self, data: dict[str, tuple[Tensor, Tensor]]) -> list[Any]:
        return [self._prepare_batch(data, int(name == "pred_uncond"), name) for name in self._names()]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """A batch of inputs per branch, as diffusers' modular pipelines ask for them.

        Args:
            data: the block's state.
            input_fields: where each input lies in it, by branch.
        """
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name == "pred_uncond"), name)
            for name in self._names()
        ]

    def forward(
        self, pred_cond: Tensor, pred_noise_uncond: Tensor | None = None, pred_uncond: Tensor | None = None
    ) -> GuiderOutput:
        """The guided prediction: the full one, moved away from each weaker branch that is given.

        Args:
            pred_cond: (B, …) with the noise level and the condition.
            pred_noise_uncond: (B, …) without the noise level, or None.
            pred_uncond: (B, …) without the condition, or None.
        """
        pred = pred_cond
        if pred_noise_uncond is not None:
            pred = pred + self.scale * (pred_cond - pred_noise_uncond)
        if pred_uncond is not None:
            pred = pred + (self.guidance_scale - 1) * (pred_cond - pred_uncond)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    @property
    def is_conditional(self) -> bool:
        return self._current() != "pred_uncond"

    @property
    def num_conditions(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        """The predictions of this step, in the order in which the pipeline runs them."""
        if not self._on():
            return ["pred_cond"]
        return ["pred_cond", *["pred_noise_uncond"] * (self.scale != 0), *["pred_uncond"] * (self.guidance_scale != 1)]

    def _current(self) -> str:
        names = self._names()
        return names[min(max(self._count_prepared, 1), len(names)) - 1]

    def _on(self) -> bool:
        if not self._enabled or self._num_inference_steps is None:
            return bool(self._enabled)
        first, last = (int(share * self._num_inference_steps) for share in (self._start, self._stop))
        return first <= self._step < last
