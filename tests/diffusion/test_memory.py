"""Out of memory: fewer rows at a time, the same numbers, one line on the log."""

import logging
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forking import said_by
from torch import nn

import noiseshift as ns
from noiseshift.diffusion.memory import Halving, is_out_of_memory
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, Guided
from noiseshift.diffusion.parts import InParts
from noiseshift.networks.model import NetworkModel

X = torch.randn(13, 3, 2, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor(0.5)
FULL_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuda error": RuntimeError("CUDA error: out of memory"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 16 bytes."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    "onednn": RuntimeError("could not create a primitive"),
    "onednn, later": RuntimeError("could not execute a primitive"),
    "lapack": RuntimeError("std::bad_alloc"),
    "python": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((1, 2), np.dtype("f8")),
}


def raised_inside(error):
    """As torch's own parts raise: not by a statement of Python's."""
    (_ for _ in ()).throw(error)


class Small:
    """Room for so many rows; `seen` are the sizes of the calls that went through."""

    def __init__(self, room, error=FULL_MEMORY["cuda"]):
        self.room, self.error, self.seen = room, error, []

    def __call__(self, x, *rest):
        if len(x) > self.room:
            raised_inside(self.error)
        self.seen.append(len(x))
        return torch.tanh(x) * (1 if not rest or rest[0] is None else rest[0].reshape(-1, *[1] * (x.ndim - 1)))


@pytest.fixture
def reported(monkeypatch):
    lines = []
    monkeypatch.setattr(logging.getLogger("noiseshift"), "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.parametrize("kind", FULL_MEMORY)
def test_every_way_to_say_it_is_known(kind):
    halving = Halving("it")
    assert torch.equal(torch.cat(halving(Small(4, FULL_MEMORY[kind]), X)), torch.tanh(X))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    small = Small(4, error)
    with pytest.raises(type(error)):
        Halving("it")(small, X)
    assert not small.seen


PARTS = {
    "convolutions": lambda n: F.conv2d(torch.zeros(2, 3, n, n), torch.zeros(n, 3, 3, 3)),
    "convolutions of rows": lambda n: F.conv1d(torch.zeros(2, 3, n), torch.zeros(n, 3, 3)),
    "activations": lambda n: F.gelu(torch.zeros(n, n)),
}


def said_without_memory(call, more):
    """What a process says that has `more` MB beyond what it holds, and calls until they are gone."""

    def work():
        signal.alarm(20)
        torch.set_num_threads(1)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (more << 20),) * 2)
        try:
            for side in range(5, 1500, 37):
                call(side)
        except BaseException as error:
            return f"{is_out_of_memory(error)}: {error}"
        return "nothing"

    return said_by(work)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are Linux's")
@pytest.mark.parametrize("part", PARTS)
def test_whatever_a_part_of_torch_says_of_a_full_memory_is_known(part):
    """oneDNN speaks of primitives, not of memory."""
    said = [said_without_memory(PARTS[part], more) for more in (0, 2)]
    assert all(words.startswith("True") for words in said), said


def test_what_a_users_code_says_of_memory_is_the_users():
    def own(x):
        raise RuntimeError("CUDA out of memory: can't allocate memory")

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        Halving("it")(own, X)


def test_an_error_that_was_raised_from_it_is_one():
    error = ValueError("your network failed")
    assert not is_out_of_memory(error)
    error.__cause__ = FULL_MEMORY["cuda"]
    assert is_out_of_memory(error)


def test_what_was_learned_is_kept_and_said_once(reported):
    halving, small = Halving("the network"), Small(4)
    halving(small, X)
    assert small.seen == [3, 3, 3, 3, 1]
    halving(small, X)
    assert small.seen == [3, 3, 3, 3, 1] * 2
    assert reported == [
        "out of memory: the network takes 3 rows at a time instead of 13; the numbers do not depend on it"
    ]


def test_nothing_is_cut_or_said_where_memory_holds(reported):
    small = Small(13)
    (answer,) = Halving("it")(small, X, None)
    assert small.seen == [13]
    assert torch.equal(answer, torch.tanh(X))
    assert Halving("it")(Small(4), X[:0])[0].shape == (0, 3, 2, 2)
    assert not reported


def test_a_single_row_that_does_not_fit_is_one_line():
    with pytest.raises(MemoryError, match="single row; take another --device") as caught:
        Halving("it")(Small(0), X)
    assert "\n" not in str(caught.value)


class Own:
    """A user's own model, which knows nothing of parts."""

    schedule, branches, predicts, levels = ns.Linear(), frozenset({FULL}), "velocity", torch.tensor([0.1, 0.9])

    def __init__(self, room):
        self.inner = ns.wrap(lambda x, t, c: Small(100)(x, t), self.schedule)
        self.room = room

    def snap(self, t):
        return t

    def __call__(self, x, t, cond=None):
        return self.predict(x, t, cond, (FULL,))[0]

    def predict(self, x, t, cond, branches):
        if len(x) > self.room:
            raise FULL_MEMORY["cuda"]
        return self.inner.predict(x, t, cond, branches)


def models(room):
    """Models with room for so many rows, by every way that one comes in."""

    class Net(nn.Module):
        def forward(self, x, time, label, known):
            return Small(room)(x, time) * (1 + known.reshape(-1, 1, 1, 1))

    yield ns.wrap(lambda x, t, c: Small(room)(x, t + c), ns.Linear(), blind=lambda x, c: Small(room)(x, c))
    yield NetworkModel(Net(), ns.Linear(), "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=True)
    yield InParts(Own(room))
    yield ns.adapters.torchcfm(lambda t, x, y=None: Small(room)(x, t))


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("t", [T, torch.linspace(0.1, 0.9, 13)], ids=["one time", "a time a row"])
def test_a_model_answers_the_same_with_little_room(way, t):
    much, little = (list(models(room))[way] for room in (100, 4))
    cond = torch.arange(13) if way in (0, 3) else None
    for branches in [(FULL,)] + [(FULL, NOISE_UNCONDITIONAL)] * (way < 2):
        pairs = zip(much.predict(X, t, cond, branches), little.predict(X, t, cond, branches), strict=True)
        for a, b in pairs:
            assert torch.equal(a.x0, b.x0)
            assert torch.equal(a.eps, b.eps)
    assert torch.equal(much(X, t, cond).x0, little(X, t, cond).x0)


def test_a_guided_model_of_ones_own_keeps_its_branches():
    inner, _, _, _ = models(100)

    class GuidedOwn(Own):
        def __call__(self, x, t, cond=None):
            if len(x) > self.room:
                raise FULL_MEMORY["cuda"]
            return Guided(inner, ns.noise_awareness(1.0))(x, t, cond)

    much, little = (InParts(GuidedOwn(room))(X, T, torch.arange(13)) for room in (100, 4))
    assert torch.equal(much.x0, little.x0)
    assert torch.equal(much.unguided.x0, little.unguided.x0)
    assert set(much.branches) == set(little.branches)
    assert torch.equal(InParts(Own(4)).levels, Own.levels)


def test_a_measurement_goes_on_with_the_rows_that_fit(reported):
    """The network of a checkpoint runs out above 9 rows: sampling and calibration go on, with the same numbers."""
    protocol = ns.Protocol(
        ns.solver("euler:3"),
        samples=12,
        estimators={"residual": None},
        guidance=ns.classifier_free(0.5),
        points=2,
        calibration_rows=20,
    )
    checkpoint, data = ns.load("fashion-ddpm"), ns.data.reference()[:40]
    runs = [ns.run(checkpoint, protocol, data)]

    def full(network, args):
        if len(args[0]) > 9:
            raised_inside(FULL_MEMORY["cpu"])

    checkpoint.model.network.register_forward_pre_hook(full)
    runs.append(ns.run(checkpoint, protocol, data))
    for name in protocol.estimators:
        tables = [run.reports[name].table() for run in runs]
        np.testing.assert_allclose(tables[0]["shift"], tables[1]["shift"], rtol=1e-3, atol=1e-5)
    assert int((runs[0].pictures.int() - runs[1].pictures.int()).abs().max()) <= 1
    assert len([line for line in reported if "out of memory" in line]) == 1
