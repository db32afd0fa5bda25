"""Guidance by its arithmetic: which part had the condition, in every order and form that pipelines have."""

import pytest
import torch

from noiseshift.integrations.mixtures import blocks, conditional, distinct_rows, order, weights


def parts(count, rows=3):
    return list(torch.randn(count, rows, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


C, U, P = parts(3)
MIXTURES = {
    "cfg": (U + 7.5 * (C - U), [U, C], 1),
    "cfg, condition first": (U + 4 * (C - U), [C, U], 0),
    "three parts": (U + 7.5 * (C - P) + 1.5 * (P - U), [C, P, U], 0),
    "perturbed": (C + 3 * (C - P), [C, P], 0),
    "cfg and perturbed": (U + 5 * (C - U) + 3 * (C - P), [U, C, P], 1),
    "unguided": (C, [C], 0),
}


@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_condition_is_found_by_the_mixture(case, rescale, dtype):
    mixture, given, right = MIXTURES[case]
    axes = (1, 2, 3)
    scaled = mixture * (given[right].std(axes, keepdim=True) / mixture.std(axes, keepdim=True))
    mixture = rescale * scaled + (1 - rescale) * mixture
    assert conditional(mixture.to(dtype), [part.to(dtype) for part in given]) == right


def test_what_is_no_combination_is_not_guessed():
    assert conditional(parts(4)[3], [C, U]) is None
    assert conditional((U + 7.5 * (C - U)).clamp(-1, 1), [U, C]) is None  # dynamic thresholding
    assert weights(C, [U[:, :2]]) is None
    assert conditional(C, []) is None


@pytest.mark.parametrize("scale", [0.2, 0.5, 0.8, 1.0])
def test_a_known_order_decides_where_the_weights_do_not(scale):
    both, mixture = torch.cat([U, C]), U + scale * (C - U)
    assert conditional(mixture, [U, C]) is None
    assert conditional(mixture, [U, C], order("StableDiffusionPipeline", blocks([both], 3, 4))) == 1
    assert conditional(mixture, [C, U], order("DiTPipeline", blocks([both], 3, 4))) == 0
    assert order("WanPipeline", blocks([C, U], 3, 4)) is None  # calls of their own


def test_equal_latents_are_no_doubled_batch():
    latents = torch.cat([C[:1], C[:1]])
    assert distinct_rows(latents, U[:2], [U[:2]]) == 2  # two prompts, one seed
    guided = torch.cat([U[:1], U[:1]])
    assert distinct_rows(latents, guided, [guided]) == 2  # one prompt twice: nothing was mixed
    assert distinct_rows(latents, guided, [torch.cat([U[:1], P[:1]])]) == 1  # DiT's
    assert distinct_rows(C, U, [U]) == 3


def test_parts_of_calls_are_split_by_rows_and_channels():
    found = blocks([torch.cat([C, U]), P], 3, 2)
    assert [(call, part.start) for call, part, _ in found] == [(0, 0), (0, 3), (1, 0)]
    torch.testing.assert_close(found[1][2], U[:, :2])
