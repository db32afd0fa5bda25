"""What a training saved beside its weights: the numbers and words of its settings, which tell more than the code beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from noiseshift.checkpoints.source.stochastic import in_settings
from noiseshift.checkpoints.source.training import FIRST, LAST, STEPS, Training, is_betas

DEEPEST = 4
LEARNED = {
    **dict.fromkeys(("epsilon", "eps", "noise", "pred_noise"), "epsilon"),
    **dict.fromkeys(("x0", "sample", "x_start", "pred_x0", "start_x"), "x0"),
    **dict.fromkeys(("v", "v_prediction", "pred_v"), "v_prediction"),
    **dict.fromkeys(("velocity", "flow_prediction", "flow"), "velocity"),
    "score": "score",
}
"""Words of trainings for what a network predicts, and ours."""
NAMES = (
    "objective",
    "prediction",
    "prediction_type",
    "parameterization",
    "parametrization",
    "pred_type",
    "predict",
    "target",
)


def settings_in(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain numbers and words in a checkpoint file, by their names.

    Args:
        content: What the file holds.
    """
    return dict(_plain(content, 0))


def _plain(content: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if (
            isinstance(value, Mapping)
            and depth < DEEPEST
            and key not in ("optimizer", "optimizer_states", "param_groups")
        ):
            yield from _plain(value, depth + 1)
        elif isinstance(key, str) and isinstance(value, int | float | str) and not isinstance(value, bool):
            yield key, value


def with_settings(training: Training, settings: Mapping[str, Any]) -> Training:
    """What a training shows, by its own settings where these say it.

    Args:
        training: by the code.
        settings: as `settings_in` returns them.
    """
    numbers = {name: value for name, value in settings.items() if isinstance(value, int | float)}
    steps = next(
        (v for n, v in numbers.items() if STEPS.fullmatch(n) and isinstance(v, int) and 10 <= v <= 10_000), None
    )
    ends = [next((v for n, v in numbers.items() if end.fullmatch(n)), None) for end in (FIRST, LAST)]
    learned = next((LEARNED.get(str(settings[name]).lower()) for name in NAMES if name in settings), None)
    if learned is not None:
        training = replace(training, learned=learned)
    if is_betas(*ends):
        known = {"steps": steps} if steps else {k: v for k, v in (training.betas or {}).items() if k == "steps"}
        return replace(training, betas={"beta_start": ends[0], "beta_end": ends[1], **known}, doubt="", to_data=None)
    sde = in_settings(numbers)
    if sde is not None:
        return replace(training, sde=sde, betas=None, doubt="", to_data=None)
    if steps and training.betas and "betas" not in training.betas:
        return replace(training, betas={**training.betas, "steps": steps})
    return training
