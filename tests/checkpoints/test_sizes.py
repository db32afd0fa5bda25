"""--size, and size and shape in a card: every kind of checkpoint takes them, or says why not."""

import pytest
import torch

import noiseshift as ns
from noiseshift.checkpoints import Card, CheckpointError
from noiseshift.networks.adm import Adm, AdmConfig
from noiseshift.networks.lucidrains import AttentionConfig, Unet, UnetConfig

ADM = {"family": "adm", "heads": 4}
T = torch.tensor(0.5)


def unet(axes=2):
    attention = [AttentionConfig(inner=128, heads=4, memory=0, full=full, axes=axes) for full in (False, False, True)]
    return Unet(UnetConfig(3, 3, 8, (8, 8, 16), tuple(attention), axes=axes))


def adm():
    return Adm(AdmConfig(3, 3, 32, (32, 64), 1, (False, True), scale_shift=False, heads=4))


@pytest.fixture(params=["lucidrains", "adm"])
def file(request, tmp_path):
    network, card = {"lucidrains": (unet(), {"family": "lucidrains"}), "adm": (adm(), ADM)}[request.param]
    torch.save(network.state_dict(), tmp_path / "x.pt")
    return tmp_path / "x.pt", card


def test_convolutions_take_oblong_pictures(file):
    path, card = file
    found = ns.load(path, card=card, size=(8, 12))
    assert found.shape == (3, 8, 12)
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    whole = found.model(x, T)
    assert whole.x0.shape == x.shape
    # Height is height: the same network, on pictures lying on their sides, is given other pictures.
    with pytest.raises(ValueError, match="works on"):
        found.model(x.transpose(2, 3), T)


@pytest.mark.parametrize("said", [{"size": [8, 12]}, {"shape": [3, 8, 12]}])
def test_a_card_says_height_and_width(file, said):
    path, card = file
    assert ns.load(path, card=card | said).shape == (3, 8, 12)
    assert ns.load(path, card=card | said, size=(12, 8)).shape == (3, 12, 8)
    assert ns.load(path, card=card | said, size=16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("said", "size", "message"),
    [
        ({}, (8, 7), "divisible by 2 here, got 7"),
        ({}, (7, 8), "divisible by 2 here, got 7"),
        ({"shape": [1, 8, 8]}, None, r"works on states \(3, 8, 8\), its card says \(1, 8, 8\)"),
        ({"shape": [8, 8]}, None, "shape"),
        ({"size": [8, 8, 8]}, None, "two of them"),
        ({"size": [8, 0]}, None, "two of them"),
        ({"size": [8, True]}, None, "two of them"),
    ],
)
def test_other_sizes_are_refused_in_a_line(file, said, size, message):
    path, card = file
    with pytest.raises(CheckpointError, match=message) as caught:
        ns.load(path, card=card | said, size=size)
    assert "\n" not in str(caught.value)


def test_signals_have_a_length(tmp_path):
    torch.save(unet(axes=1).state_dict(), tmp_path / "x.pt")
    assert ns.load(tmp_path / "x.pt", card={"family": "lucidrains"}, size=16).shape[1:] == (16,)
    with pytest.raises(CheckpointError, match="have a length, not 8x16"):
        ns.load(tmp_path / "x.pt", card={"family": "lucidrains"}, size=(8, 16))


def test_positions_in_a_table_have_one_size():
    assert ns.load("fashion-sit", size=28).shape == (1, 28, 28)
    for size, said in ((32, "32"), ((28, 32), "28x32")):
        with pytest.raises(CheckpointError, match=f"works on 28 pixels per side, not {said}: leave the size out"):
            ns.load("fashion-sit", size=size)


def wrapper(tmp_path, monkeypatch, shape, wrapped=False):
    name = f"sized_{'_'.join(map(str, shape))}_{wrapped}"
    monkeypatch.syspath_prepend(tmp_path)
    made = "ns.wrap(lambda x, t, _: x, ns.Linear(), predicts='x0')" if wrapped else "lambda x, t: x"
    text = f"import noiseshift as ns\n\ndef model():\n    return {made}, {{'shape': {list(shape)}}}\n"
    (tmp_path / f"{name}.py").write_text(text)
    return f"{name}:model"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("shape", "expected"), [((3, 8, 8), (3, 8, 12)), ((1, 5, 8, 8), (1, 5, 8, 12))])
def test_a_wrappers_pictures_and_video_are_made_so_large(tmp_path, monkeypatch, shape, expected, wrapped):
    name = wrapper(tmp_path, monkeypatch, shape, wrapped)
    found = ns.load(name, size=(8, 12))
    assert found.shape == expected
    assert found.model(torch.zeros(2, *expected), T).x0.shape == (2, *expected)
    assert ns.load(name).shape == shape


@pytest.mark.parametrize("shape", [(2,), (1, 128), (10, 8)])
def test_a_wrappers_vectors_and_signals_have_no_sides(tmp_path, monkeypatch, shape):
    with pytest.raises(CheckpointError, match="are no pictures or video: leave the size out"):
        ns.load(wrapper(tmp_path, monkeypatch, shape), size=16)


def test_a_card_with_two_sides_is_kept_whole():
    card = Card.from_dict({"family": "adm", "heads": 4, "size": [8, 12]})
    assert card.size == (8, 12)
    assert card.sides == (8, 12)
