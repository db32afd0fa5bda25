"""A training whose batch does not fit takes it in parts: the steps are the same."""

import logging

import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.diffusion.memory import is_out_of_memory
from noiseshift.networks.transformer import TransformerConfig
from noiseshift.training.accumulating import Gradients
from noiseshift.training.room import require_batch, require_room

X = torch.randn(13, 3, generator=torch.Generator().manual_seed(0))


def full():
    """What torch's CPU allocator raises."""
    torch.empty(1 << 60)


def made():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("room", [1, 4, 12])
@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_parts_have_the_gradient_of_the_whole(room, late, caplog):
    whole, parts = made(), made()

    def loss(network):
        def of(x):
            if len(x) > room and network is parts:
                if not late:
                    full()
                x = x.clone().requires_grad_(True)
                x.register_hook(lambda grad: full())
            return network(x).square().mean()

        return of

    wanted = Gradients(whole)(loss(whole), [X])
    gradients = Gradients(parts)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert gradients(loss(parts), [X]) == pytest.approx(float(wanted), rel=1e-5)
            for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
                torch.testing.assert_close(a.grad, b.grad)
    assert gradients.limit <= room
    assert "its steps are of the whole batch" in caplog.text


def test_a_row_that_does_not_fit_is_one_line_and_other_errors_pass():
    network = made()
    with pytest.raises(MemoryError, match="take a smaller --batch"):
        Gradients(network)(lambda x: full(), [X])
    with pytest.raises(ZeroDivisionError):
        Gradients(network)(lambda x: 1 / 0, [X])


def test_only_torchs_own_words_say_that_memory_is_full():
    with pytest.raises(RuntimeError) as native:
        full()
    assert is_out_of_memory(native.value)
    with pytest.raises(RuntimeError) as users:
        raise RuntimeError("CUDA error: out of memory, can't allocate memory")
    assert not is_out_of_memory(users.value)


def test_what_cannot_fit_is_refused_before_the_first_step():
    images = ns.data.reference()[:4]
    shape = {"patch": 7, "width": 32, "depth": 1, "heads": 2}
    require_room(TransformerConfig(**shape), images, 4, "cpu")
    with pytest.raises(ValueError, match=r"parameters takes at least .* --width"):
        require_room(TransformerConfig(**shape | {"width": 16384, "depth": 900}), images, 4, "cpu")
    with pytest.raises(ValueError, match=r"parameters takes at least .* classes"):
        require_room(TransformerConfig(**shape | {"classes": 2**31 - 1}), images, 4, "cpu")
    with pytest.raises(ValueError, match=r"1,000,000,000 images takes .* --batch"):
        require_batch(images, 10**9)
