"""No two samples share their noise, and a sample's noise depends on nothing but its seed, stream and index."""

import itertools

import diffusers
import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion import noise
from noiseshift.diffusion.noise import STREAMS, generator, generators, normal, torch_generator
from noiseshift.diffusion.samplers import per_sample_noise

TOP = 2**64 - 1


def repr_name(scheduler):
    return type(scheduler).__name__


def first_words(indices, seed, stream):
    return [int(source.bit_generator.random_raw()) for source in generators(indices, seed=seed, stream=stream)]


def test_no_two_samples_share_a_first_word():
    """64-bit words: among 6 × 14 × 250 of them two agree by chance once in 10¹¹ times."""
    words = [w for seed, stream in itertools.product(range(6), STREAMS) for w in first_words(range(250), seed, stream)]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("pair", [((6, 0, 7971), (6, 0, 10991)), ((0, 0, 1), (2**32, 0, 1)), ((1, 0, 0), (0, 1, 0))])
def test_triples_that_used_to_agree_are_apart(pair):
    """torch's generator keeps 32 bits of a seed: samples 7971 and 10991 of seed 6 started from the same noise."""
    one, other = (generators([index], seed=seed, stream=stream) for seed, stream, index in pair)
    assert not torch.equal(normal(one, (4,)), normal(other, (4,)))


def test_every_bit_of_the_key_counts():
    places = [(1 << bit, 0, 0) for bit in range(64)] + [(0, 1 << bit, 0) for bit in range(64)]
    places += [(0, 0, 1 << bit) for bit in range(64)] + [(0, 0, 0), (TOP, TOP, TOP)]
    words = [first_words([index], seed, stream)[0] for seed, stream, index in places]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("seed", "stream", "index"), [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**64, 0, 0), (0, 0, 2**64), (0.5, 0, 0)]
)
def test_numbers_out_of_range_are_refused(seed, stream, index):
    with pytest.raises(ValueError, match="must be") as caught:
        generator(index, seed=seed, stream=stream)
    assert "\n" not in str(caught.value)


def test_the_streams_are_numbered_apart():
    named = [
        value for name, value in vars(noise).items() if name.isupper() and isinstance(value, int) and name != "_WORD"
    ]
    assert sorted(named) == list(STREAMS)


def test_a_row_is_the_same_in_any_batch():
    whole = normal(generators(range(20), seed=3, stream=1), (2, 3))
    assert torch.equal(normal(generators([7], seed=3, stream=1), (2, 3))[0], whole[7])
    assert torch.equal(normal(generators(range(12, 20), seed=3, stream=1), (2, 3)), whole[12:])


def test_normal_is_drawn_in_float64_and_rounded_once():
    drawn = normal([generator(5, seed=1, stream=2)], (3, 4))
    direct = generator(5, seed=1, stream=2).standard_normal((3, 4))
    assert drawn.dtype == torch.float32
    assert np.array_equal(drawn[0].numpy(), direct.astype(np.float32))


def test_normal_is_standard_normal_and_white():
    drawn = normal(generators(range(4000), seed=0, stream=0), (16,)).double()
    assert abs(float(drawn.mean())) < 0.02
    off = drawn.T @ drawn / len(drawn) - torch.eye(16)
    assert float(off.abs().max()) < 5 * (2 / 4000) ** 0.5
    neighbours = (drawn[:-1] * drawn[1:]).mean(1)
    assert abs(float(neighbours.mean())) < 0.02


def test_no_samples_and_single_numbers_have_a_shape_too():
    assert normal([], (2, 3)).shape == (0, 2, 3)
    assert normal(generators(range(3), seed=0, stream=0), ()).shape == (3,)


def test_a_users_own_torch_generators_draw_what_torch_draws():
    own = normal([torch.Generator().manual_seed(i) for i in range(3)], (4, 5))
    expected = [torch.randn(4, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    assert torch.equal(own, torch.stack(expected))


def test_a_torch_generator_has_its_whole_state_from_philox():
    """The state is that of numpy's Mersenne Twister with the same 624 words, so no other state of torch's was touched."""
    words = np.frombuffer(generator(4, seed=2, stream=1).bytes(4 * 624), "<u4")
    twister = np.random.MT19937(0)
    twister.state = {**twister.state, "state": {"key": words.astype(np.uint32), "pos": 624}}
    made = torch_generator(generator(4, seed=2, stream=1))
    drawn = torch.empty(2000, dtype=torch.int64).random_(0, 2**20, generator=made)
    assert np.array_equal(drawn.numpy(), twister.random_raw(2000) % 2**20)
    given = torch.Generator()
    assert torch_generator(given) is given


def test_torch_generators_differ_where_32_bits_of_their_seeds_agree():
    """torch's own, for comparison: seeds 1 and 1 + 2³² are one generator."""
    plain = [torch.rand(3, generator=torch.Generator().manual_seed(1 + offset)) for offset in (0, 2**32)]
    assert torch.equal(*plain)
    keyed = [torch.rand(3, generator=torch_generator(generator(0, seed=1 + o, stream=0))) for o in (0, 2**32)]
    assert not torch.equal(*keyed)


@pytest.mark.parametrize(
    "scheduler",
    [diffusers.DDPMScheduler(clip_sample=False), diffusers.EulerAncestralDiscreteScheduler()],
    ids=repr_name,
)
def test_schedulers_draw_by_sample_and_anew_at_every_step(scheduler):
    model = ns.wrap(lambda x, t, c: 0 * x, ns.Discrete.from_betas(), predicts="x0")
    start = normal(generators(range(5), seed=0, stream=0), (256,))

    def run(rows):
        noise = per_sample_noise(generators(rows, seed=0, stream=1))
        steps = ns.sample(model, start[list(rows)], None, update=ns.from_diffusers(scheduler, 5), noise=noise)
        return torch.stack([step.x for step in steps])

    whole = run(range(5))
    torch.testing.assert_close(run(range(3, 5)), whole[:, 3:])
    # The model says x0 = 0: a state is the one before, scaled, plus what was drawn.
    before, after = whole[:-2], whole[1:-1]
    drawn = after - (after * before).sum(-1, keepdim=True) / (before**2).sum(-1, keepdim=True) * before
    alike = torch.corrcoef(drawn.flatten(0, 1)) - torch.eye(drawn[..., 0].numel())
    assert float(alike.abs().max()) < 0.5


def test_no_call_of_a_scheduler_or_of_normal_moves_the_global_generators():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    normal(generators(range(3), seed=0, stream=0), (4,))
    torch.randn(3, generator=torch_generator(generator(0, seed=0, stream=0)))
    assert torch.equal(before, torch.get_rng_state())


def test_seed_and_stream_are_the_key_and_the_index_the_counters_last_word():
    """Which words they are decides every run's numbers: runs of two versions share their noise."""
    plain = np.random.Generator(np.random.Philox(key=[1, 2], counter=[0, 0, 0, 3]))
    assert generator(3, seed=1, stream=2).integers(2**63, size=4).tolist() == plain.integers(2**63, size=4).tolist()
