"""Guidance by its arithmetic: which part had the condition, in every order and form that pipelines have."""

import diffusers
import pytest
import torch

from noiseshift.integrations.mixtures import blocks, conditional, distinct_rows, loop_of, order, unknown, weights


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
    assert conditional(mixture.to(dtype), [part.to(dtype) for part in given]) == (right, pytest.approx(1.0, abs=1e-3))


def test_what_is_no_combination_is_not_guessed():
    assert conditional(parts(4)[3], [C, U]) is None
    assert conditional((U + 7.5 * (C - U)).clamp(-1, 1), [U, C]) is None  # dynamic thresholding
    assert weights(C, [U[:, :2]]) is None
    assert conditional(C, []) is None


def test_a_row_whose_parts_agree_to_rounding_says_nothing_against_the_others():
    near = [part + 1e-6 * torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) for part in (C, P)]
    assert conditional(U + 5 * (C - U), [U, C, near[0]]) is None  # which of two equal ones: the weights do not say
    perturbed = torch.cat([near[0][:1], P[1:]])
    assert conditional(U + 5 * (C - U) + 2 * (C - perturbed), [U, C, perturbed]) == (1, 1.0)
    assert conditional(C + 4 * (C - near[0]), [C, near[0]]) == (0, pytest.approx(1.0))
    strange = torch.cat([P[:1], (U + 5 * (C - U))[1:]])
    assert conditional(strange, [torch.cat([C[:1], U[1:]]), torch.cat([near[0][:1], C[1:]])]) is None


@pytest.mark.parametrize("scale", [0.2, 0.5, 0.8, 1.0])
def test_a_known_order_decides_where_the_weights_do_not(scale):
    both, mixture = torch.cat([U, C]), U + scale * (C - U)
    assert conditional(mixture, [U, C]) is None
    assert conditional(mixture, [U, C], order("StableDiffusionPipeline", blocks([both], 3, 4))) == (1, 1.0)
    assert conditional(mixture, [C, U], order("DiTPipeline", blocks([both], 3, 4))) == (0, 1.0)
    assert order("WanPipeline", blocks([C, U], 3, 4)) is None  # calls of their own


def test_an_order_is_known_of_diffusers_own_loops_alone():
    class Renamed(diffusers.DiTPipeline):
        pass

    class Rewritten(diffusers.DiTPipeline):
        def __call__(self):
            pass

    assert loop_of(object.__new__(diffusers.DiTPipeline)) == loop_of(object.__new__(Renamed)) == "DiTPipeline"
    assert loop_of(object.__new__(Rewritten)) == loop_of(object()) == ""
    assert order(loop_of(object.__new__(Renamed)), blocks([torch.cat([C, U])], 3, 4)) == 0
    assert order("", blocks([torch.cat([C, U])], 3, 4)) is None


def test_the_negative_of_what_the_network_said_is_known_for_it():
    """Lumina, HiDream and Z-Image hand the scheduler -v; a network alone may be scaled by anything."""
    assert conditional(-(U + 4 * (C - U)), [C, U]) == (0, -1.0)
    assert conditional(-C, [C]) == (0, pytest.approx(-1.0))
    assert conditional(-C, [C, C.clone()]) == (0, -1.0)
    assert conditional(0.5 * C, [C]) == (0, pytest.approx(0.5))
    assert conditional(3.0 * (U + 4 * (C - U)), [U, C]) is None  # no rescaling by spread makes it larger


@pytest.mark.parametrize("sign", [1, -1])
def test_tokens_scaled_to_the_conditions_norm_name_it(sign):
    mixture = U + 4 * (C - U)
    scaled = sign * mixture * (C.norm(dim=-1, keepdim=True) / mixture.norm(dim=-1, keepdim=True))
    assert conditional(scaled, [C, U]) == (0, sign)
    assert conditional(scaled, [U, C]) == (1, sign)
    assert conditional(mixture.clamp(-1, 1), [U, C]) is None


def test_of_two_parts_above_zero_the_pipelines_order_decides():
    """Text 1.2, image 3: the part with the image alone weighs 1.8, the one with both 1.2."""
    mixture = U + 1.2 * (C - P) + 3 * (P - U)
    assert conditional(mixture, [C, P, U]) is None
    known = order("StableDiffusionInstructPix2PixPipeline", blocks([torch.cat([C, P, U])], 3, 4))
    assert conditional(mixture, [C, P, U], known) == (0, 1.0)
    # Adaptive perturbed guidance fades: its batch starts with the condition, where guidance alone would end with it.
    known = order("StableDiffusionPAGPipeline", blocks([torch.cat([C, P])], 3, 4))
    assert conditional(C, [C, P], known) == (0, 1.0)
    assert conditional(U + 5 * (C - U), [U, C], known) == (1, 1.0)


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


def test_what_cannot_be_told_is_refused_with_its_reason():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 4, 8, 8, generator=generator)
    by_channel = torch.linspace(1, 3, 4).reshape(1, 4, 1, 1)
    mixture = second + by_channel * (first - second)
    assert conditional(mixture, [first, second]) is None
    assert "by frame, channel or token" in unknown(mixture, [first, second])
    mean = (first + second) / 2
    assert conditional(mean, [first, second]) is None
    assert "does not follow from their weights" in unknown(mean, [first, second])
    assert "(3, 4, 4, 8)" in unknown(mean, [first[:, :, :4]])
    assert "no answer" in unknown(mean, [])
