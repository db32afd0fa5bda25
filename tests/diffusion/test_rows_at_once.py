"""On the CPU no more is begun than memory is sure to hold."""

import pytest
import torch
from torch import nn

from noiseshift.diffusion import memory
from noiseshift.training import accumulating


@pytest.fixture
def small(monkeypatch):
    """A machine of 64 MB."""
    for module in (memory, accumulating):
        monkeypatch.setattr(module, "memory_of", lambda device: 1 << 26)


def test_a_batch_is_taken_in_parts_that_fit(small):
    seen = []
    answers = memory.Halving("the network")(lambda x: seen.append(len(x)) or 2 * x, x := torch.randn(100, 4, 16, 16))
    assert max(seen) * memory.COPIES * 4 * 4 * 16 * 16 <= 1 << 25
    assert sum(seen) == 100
    torch.testing.assert_close(torch.cat(answers), 2 * x)


def test_a_row_that_cannot_fit_is_not_begun(small):
    with pytest.raises(MemoryError, match=r"the network on a state of 1,000,000 numbers .* smaller --size"):
        memory.Halving("the network")(lambda x: pytest.fail("called"), torch.empty(1, 1000, 1000))


def test_a_step_is_taken_in_parts_that_fit(small, caplog):
    network = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(64, 64), nn.ReLU())))
    seen = []

    def loss(x):
        seen.append(len(x))
        return network(x).square().mean()

    gradients = accumulating.Gradients(network)
    gradients(loss, [torch.randn(20_000, 64)])
    row = accumulating.saved_bytes(network, loss, [torch.randn(8, 64)]) / 8
    assert 20 * 64 * 4 <= row <= 3 * 20 * 64 * 4
    assert max(seen) * row <= 1 << 25
    assert "rows at a time" in caplog.text


def test_what_a_container_may_have_is_its_memory(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("1048576\n")
    monkeypatch.setattr(memory, "_LIMITS", (limit, tmp_path / "none"))
    assert memory.memory_of("cpu") == 1 << 20
    limit.write_text("max\n")
    assert memory.memory_of("cpu") > 1 << 20
    assert 0 < memory.free_memory()
