"""On the CPU no more is begun than memory is sure to hold."""

import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.diffusion import memory
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL
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


@pytest.mark.parametrize(("rows", "copies"), [(1, 3), (20, 3), (64, 2), (256, 1), (100, 3)])
def test_branches_and_batches_go_through_a_processor_in_small_parts(rows, copies, monkeypatch):
    """A CPU takes longer a row where many go through at once; what a trial found is taken as it is."""
    model = ns.load().model
    seen = []
    network = type(model.network)

    def answers(self, x, time, labels, known):
        seen.append(len(x))
        return torch.cat([x * (1 + labels.reshape(-1, 1, 1, 1)), x * known.reshape(-1, 1, 1, 1)], 1)

    monkeypatch.setattr(network, "forward", answers)
    x = torch.randn(rows, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    branches = (FULL, UNCONDITIONAL, NOISE_UNCONDITIONAL)[:copies]
    found = model.predict(x, torch.tensor(0.5), torch.arange(rows) % 10, branches)
    assert max(seen) <= 64
    assert len(seen) == -(-rows * copies // 64)
    model.halving.rows = rows * copies
    seen.clear()
    at_once = model.predict(x, torch.tensor(0.5), torch.arange(rows) % 10, branches)
    assert seen == [rows * copies]
    for one, other in zip(found, at_once, strict=True):
        torch.testing.assert_close(one.eps, other.eps)
