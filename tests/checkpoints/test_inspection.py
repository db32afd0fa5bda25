"""Files that no format builds: what they say by themselves, and the wrapper that is written for them."""

import json
import sys

import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from torch import nn

import noiseshift as ns
from noiseshift.checkpoints.inspection import contents_of, schedule_in

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, rows=0):
        super().__init__()
        self.time_embed = nn.Embedding(50, 4)
        self.inp = nn.Conv2d(1, 4, 3, padding=1)
        self.label_emb = nn.Embedding(rows, 4) if rows else None
        self.out = nn.Conv2d(4, 1, 3, padding=1)
    def forward(self, x, t, label=None):
        h = self.inp(x) + self.time_embed(t)[:, :, None, None]
        if label is not None:
            h = h + self.label_emb(label)[:, :, None, None]
        return self.out(h)
"""
BETAS = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
BARS = (1 - BETAS).cumprod(0)
TABLES = {
    "betas": BETAS,
    "beta_t": BETAS,
    "sqrt_beta_t": BETAS.sqrt(),
    "alphas": 1 - BETAS,
    "alpha_t": 1 - BETAS,
    "alphas_cumprod": BARS,
    "alphabar_t": BARS,
    "alpha_bars": BARS,
    "alpha_hat": BARS,
    "sqrt_alphas_cumprod": BARS.sqrt(),
    "sqrtab": BARS.sqrt(),
    "sqrt_alpha_bar": BARS.sqrt(),
    "sqrtmab": (1 - BARS).sqrt(),
    "sqrt_one_minus_alphas_cumprod": (1 - BARS).sqrt(),
    "one_minus_alphas_cumprod": 1 - BARS,
}


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A stranger's module in the working directory."""
    (tmp_path / "my_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("my_network", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import my_network

    torch.manual_seed(0)
    return my_network.Network


def info(*words):
    return CliRunner().invoke(main, ["info", *map(str, words)])


@pytest.mark.parametrize("prefix", ["", "diffusion.", "module.denoiser.schedule."])
@pytest.mark.parametrize("name", TABLES)
def test_a_schedule_is_found_under_any_name_and_prefix(name, prefix):
    found = schedule_in({f"{prefix}{name}": TABLES[name], "x.weight": torch.zeros(3, 3), "x.bias": torch.zeros(50)})
    torch.testing.assert_close(found.alphas_cumprod, BARS, rtol=1e-6, atol=1e-9)
    assert ns.Card.from_dict({"family": "callable", "schedule": found.card}).build_schedule()


@pytest.mark.parametrize("name", ["alpha", "betas", "alphas_cumprod"])
def test_numbers_that_do_not_fall_are_no_schedule(name):
    assert schedule_in({name: torch.linspace(0.1, 3.0, 50)}) is None


def saved(path, state, **beside):
    torch.save({**beside, "model": state} if beside else state, path)
    return path


def test_info_says_what_a_file_tells(network, tmp_path):
    state = {f"denoise_fn.{key}": value for key, value in network(rows=11).state_dict().items()}
    average = {key: value + 1 for key, value in state.items()}
    path = tmp_path / "x.pt"
    torch.save({"model": state | {"betas": BETAS.float()}, "ema": average | {"betas": BETAS.float()}}, path)
    result = info(path)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    for said in (
        "not built x.pt",
        "weights ema, averaged",
        "prefix denoise_fn. before every name",
        "1 channels in; 1 out",
        "an embedding of 50 rows",
        "11 classes, or 10 and a null class",
        "50 steps, by its buffer betas",
        "--write-wrapper mine.py",
    ):
        assert said in words
    found = json.loads(info(path, "--json").output)
    assert (found["built"], found["prefix"]) == (False, "denoise_fn.")
    assert info(path, "--family", "sit").exit_code == 0  # no dead end


@pytest.mark.parametrize("beside", [{}, {"epoch": 3, "optimizer": {"x": torch.zeros(3)}}])
def test_the_written_wrapper_runs_once_it_is_filled_in(network, tmp_path, beside):
    net = network()
    state = {f"eps_model.{key}": value for key, value in net.state_dict().items()} | {"alphabar_t": BARS.float()}
    result = info(saved(tmp_path / "x.pth", state, **beside), "--write-wrapper", "mine.py")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "mine.py").read_text()
    assert "from my_network import Network" in text
    assert text.count("# fill in") >= 2
    (tmp_path / "mine.py").write_text(text.replace("28, 28", "8, 8"))
    checkpoint = ns.load("mine:model")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    torch.testing.assert_close(checkpoint.model(x, t).eps, net(x, torch.full((2,), 24)).detach())
    torch.testing.assert_close(checkpoint.model.schedule(t).alpha ** 2, BARS[24].float())
    shown = json.loads(info("mine:model", "--json").output)
    assert shown["parameters"] == sum(p.numel() for p in net.parameters())


def test_a_wrapper_not_filled_in_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "pytest" not in path])
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    saved(tmp_path / "x.pt", {"a.weight": torch.zeros(3, 2), "b.weight": torch.zeros(2, 3)})
    assert info("x.pt", "--write-wrapper", "mine.py").exit_code == 0
    result = info("mine:model")
    assert result.exit_code == 1
    assert "No module named 'my_network'" in result.output


def test_nothing_is_overwritten(network, tmp_path):
    path = saved(tmp_path / "x.pt", network().state_dict())
    (tmp_path / "there.py").write_text("kept")
    for place, says in (("there.py", "is there already"), ("no-name.py", "no name of a module"), ("x.txt", "no name")):
        result = info(path, "--write-wrapper", place)
        assert result.exit_code == 1
        assert says in result.output
    assert (tmp_path / "there.py").read_text() == "kept"
    (tmp_path / "link.py").symlink_to("nothing.py")
    result = info(path, "--write-wrapper", "link.py")
    assert result.exit_code == 1
    assert "is a link to" in result.output
    assert "name the real place" in result.output
    assert (tmp_path / "link.py").is_symlink()
    assert "no wrapper is needed" in info("fashion-sit", "--write-wrapper", "other.py").output


def test_names_in_a_file_do_not_become_code(network, tmp_path):
    state = {'a"""\nraise SystemExit("run")\n"""': torch.zeros(3), "x\nimport os\n.betas": BETAS}
    path = saved(tmp_path / 'a"b.pt', state | {f"evil\n.{k}": v for k, v in network().state_dict().items()})
    assert info(path, "--write-wrapper", "mine.py").exit_code == 0
    text = (tmp_path / "mine.py").read_text()
    compile(text, "mine.py", "exec")
    assert "raise" not in text
    assert "import os" not in text


@pytest.mark.parametrize("state", [{"xs": torch.zeros(4, 3)}, {"opt": {"x": torch.zeros(2)}}])
def test_a_file_of_no_network_is_one_line(tmp_path, state):
    result = info(saved(tmp_path / "x.pt", state))
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("wrapped", [lambda net: net, lambda net: lambda x, t: net(x, t)])
def test_parameters_are_counted_in_closures_too(network, tmp_path, wrapped):
    import my_network

    net = network()
    my_network.model = lambda: (wrapped(net), {"shape": [1, 8, 8], "time": {"integer": True, "scale": 49}})
    found = json.loads(info("my_network:model", "--json").output)
    assert found["parameters"] == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("prefix", ["", "denoise_fn.", "a.b.c."])
def test_weights_are_found_under_a_prefix(network, tmp_path, prefix):
    net, other = network(), network()
    state = {f"{prefix}{key}": value for key, value in net.state_dict().items()}
    path = saved(tmp_path / "x.pt", state | ({"betas": BETAS} if prefix else {}))
    filled = ns.adapters.weights(path, other)
    assert all(torch.equal(value, filled.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("part", ["model", "net", "network"])
def test_a_part_of_another_version_is_named(tmp_path, part):
    net = nn.ModuleDict({part: nn.Linear(6, 2), "embed": nn.Linear(1, 4)})
    state = {key.replace("embed.", "time.embed."): value for key, value in net.state_dict().items()}
    with pytest.raises(ns.CheckpointError, match=r"4 tensors differ, first embed\.weight"):
        ns.adapters.weights(saved(tmp_path / "x.pt", state), net)


def test_two_networks_under_prefixes_are_not_guessed(network, tmp_path):
    state = {f"{name}.{key}": v for name in ("teacher", "pupil") for key, v in network().state_dict().items()}
    with pytest.raises(ns.CheckpointError, match="does not fit"):
        ns.adapters.weights(saved(tmp_path / "x.pt", state), network())


def test_a_part_called_net_is_no_wrapper(tmp_path):
    net = nn.ModuleDict({"net": nn.Linear(6, 2), "embed": nn.Linear(1, 4)})
    assert len(contents_of(saved(tmp_path / "x.pt", net.state_dict())).tensors) == 4


def test_the_schedule_in_a_file_is_a_cards(network, tmp_path):
    path = saved(tmp_path / "x.pt", network().state_dict() | {"q.betas": BETAS})
    torch.testing.assert_close(
        torch.tensor(ns.adapters.schedule(path)["alphas_cumprod"]).double(), BARS, rtol=1e-6, atol=0
    )
    with pytest.raises(ns.CheckpointError, match="holds no schedule"):
        ns.adapters.schedule(saved(tmp_path / "y.pt", network().state_dict()))


class Tabular(nn.Module):
    """A state of 5 is lifted to 8, and its layers lie in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict({"first": nn.Linear(8, 16), "head": nn.Linear(16, 5)})
        self.proj = nn.Linear(5, 8)
        self.time_embed = nn.Linear(8, 8)


def test_features_are_those_of_the_head(tmp_path):
    found = contents_of(saved(tmp_path / "x.pt", Tabular().state_dict()))
    assert (found.inputs, found.outputs, found.channels) == (5, 5, 5)


@pytest.mark.parametrize("averaged", [True, False])
def test_a_training_state_that_is_a_list(network, tmp_path, averaged):
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    average = {key: value + 1 for key, value in net.state_dict().items()}
    rows = [{f"module.{key}": value for key, value in net.state_dict().items()}, optimizer.state_dict(), 3, 400]
    torch.save(rows + [average] * averaged, tmp_path / "ckpt.pth")
    found = contents_of(tmp_path / "ckpt.pth")
    assert (found.weights, found.averaged) == ("ema, averaged" if averaged else "model", averaged)
    filled = ns.adapters.weights(tmp_path / "ckpt.pth", network())
    torch.testing.assert_close(filled.state_dict(), average if averaged else net.state_dict())
    torch.save([torch.zeros(3), 1], tmp_path / "other.pth")
    assert "holds a list" in info(tmp_path / "other.pth").output


def test_a_batch_that_was_kept_beside_the_network_is_no_network(network, tmp_path):
    state = network().state_dict()
    torch.save({"model_state_dict": state, "xt": torch.zeros(4, 3), "ut": torch.zeros(4, 2)}, tmp_path / "x.pth")
    assert contents_of(tmp_path / "x.pth").weights == "model_state_dict"


def test_a_transposed_convolution_at_the_end(tmp_path):
    layers = {"inp": nn.Conv2d(1, 8, 3), "time": nn.Linear(1, 8), "out": nn.ConvTranspose2d(8, 1, 3)}
    torch.save(nn.ModuleDict(layers).state_dict(), tmp_path / "a.pt")
    assert contents_of(tmp_path / "a.pt").facts()["states"] == "1 channels in; 1 out"
