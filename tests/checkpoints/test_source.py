"""The code beside a checkpoint: which class its tensors are of, how it was trained, and the wrapper that this makes."""

import argparse
import ast
import dataclasses
import json
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from torch import nn

import noiseshift as ns
from noiseshift.checkpoints.inspection import contents_of
from noiseshift.checkpoints.source import beside
from noiseshift.checkpoints.source.conditioning import handed
from noiseshift.checkpoints.source.settings import settings_in, with_settings
from noiseshift.checkpoints.source.stochastic import Stochastic, in_settings
from noiseshift.checkpoints.source.training import Training
from noiseshift.checkpoints.wrapper import FILL, wrapper

NETWORK = """
    import torch
    from torch import nn
    WIDTH = 8
    class Embedding(nn.Module):
        def forward(self, t):
            return torch.stack([t.float(), t.float() ** 2], 1)
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(2, 3)
            self.out = nn.Linear(3, 2)
            self.middle = nn.Linear(3, 3)
        def forward(self, x, t):
            return self.out(self.inp(x))
    class Denoiser(nn.Module):
        def __init__(self, dim, hidden=WIDTH):
            super().__init__()
            self.embed = Embedding()
            self.inp = nn.Linear(dim + 2, hidden)
            self.act = nn.ReLU()
            self.out = nn.Linear(hidden, dim)
        def forward({arguments}):
            h = self.act(self.inp(torch.cat([x, self.embed(t)], 1)))
            return {answer}
"""
DDPM = """
    import torch
    from {module} import Denoiser
    def main(timesteps=200, beta_start=1e-4, beta_end=0.02):
        betas = torch.linspace(beta_start, beta_end, timesteps)
        bars = (1 - betas).cumprod(0)
        model = Denoiser(3, hidden=5).to("cpu")
        noise = torch.randn_like(x0)
        xt = bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * noise
        loss = torch.nn.functional.mse_loss(model(xt, t), noise)
        torch.save(model.state_dict(), "runs/toy.pt")
"""
FLOW = """
    from {module} import Denoiser
    dim = 3
    model = Denoiser(dim, 5)
    z = torch.randn(4, dim)
    xt = {mixed}
    torch.save(model.state_dict(), "runs/toy.pt")
"""


class Built:
    """A repository in the working directory, and the file that it trained."""

    def __init__(self, folder, layout, training, arguments="self, x, t", answer="self.out(h)", **words):
        self.folder, path = folder, folder / layout
        path.parent.mkdir(parents=True, exist_ok=True)
        code = textwrap.dedent(NETWORK).format(arguments=arguments, answer=answer)
        path.write_text(code)
        module = layout.removeprefix("src/").removesuffix(".py").replace("/", ".")
        (folder / "train.py").write_text(textwrap.dedent(training).format(module=module, **words))
        space = {}
        exec(code, space)
        torch.manual_seed(0)
        self.network = space["Denoiser"](3, 5)
        (folder / "runs").mkdir(exist_ok=True)

    def saved(self, prefix="", **beside):
        state = {prefix + key: value for key, value in self.network.state_dict().items()}
        torch.save(state | beside, self.folder / "runs/toy.pt")
        return self.folder / "runs/toy.pt"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("mine", None)  # another test's
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    sys.modules.pop("mine", None)


def written(path):
    result = CliRunner().invoke(main, ["info", str(path), "--write-wrapper", "mine.py"])
    assert result.exit_code == 0, result.output
    return Path("mine.py").read_text()


X, T = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [("toy_net.py", ""), ("toy_pkg/nets/toy_net.py", "diffusion.net."), ("src/toy_pkg/toy_net.py", "ema.module.")],
)
def test_a_wrapper_of_a_ddpm_needs_nothing(here, layout, prefix):
    built = Built(here, layout, DDPM)
    (here / "src").mkdir(exist_ok=True)
    text = written(built.saved(prefix).relative_to(here))
    assert FILL not in text
    checkpoint = ns.load("mine:model")
    with torch.no_grad():
        expected = built.network(X, torch.full((2,), 99))
    torch.testing.assert_close(checkpoint.model(X, T).eps, expected)
    bars = (1 - torch.linspace(1e-4, 0.02, 200).double()).cumprod(0)
    assert float(checkpoint.model.schedule(T).alpha ** 2) == pytest.approx(float(bars[99]), rel=1e-5)


def test_what_needs_nothing_is_at_most_eight_lines_and_what_a_person_fills_in_has_a_line_of_its_own(here):
    built = Built(here, "toy_net.py", DDPM)
    lines = [line for line in written(built.saved().relative_to(here)).splitlines()[1:] if line]
    assert len(lines) <= 8
    Path("mine.py").unlink()
    (here / "train.py").unlink()
    torch.save({"net.weight": torch.zeros(3, 3, 5, 5), "net.bias": torch.zeros(3)}, "other.pt")
    for line in written("other.pt").splitlines():
        entries = line.partition("  #")[0].count('": ')
        assert FILL not in line or entries - line.partition("  #")[0].count('{"') <= 2, line


@pytest.mark.parametrize(
    ("mixed", "zero"),
    [
        ("t * x1 + (1 - t) * z", "noise"),
        ("(1 - t) * z + t * x1", "noise"),
        ("(1.0 - t) * x1 + t * z", "data"),
        ("x1 * (1 - t[:, None]) + t[:, None] * z", "data"),
    ],
)
def test_which_end_of_a_flow_is_the_data(here, mixed, zero):
    built = Built(here, "toy_net.py", FLOW, mixed=mixed)
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    found = ns.load("mine:model").card
    assert (found.time.zero, found.prediction, found.schedule) == (zero, "velocity", {"kind": "linear"})


@pytest.mark.parametrize(
    ("arguments", "answer", "card"),
    [
        ("self, t, x", "self.out(h)", {"signature": ("t", "x")}),
        ("self, noise_level, x", "self.out(h)", {"signature": ("t", "x")}),
        ("self, x, t", "self.out(h), h", {"output": "first"}),
    ],
)
def test_how_it_is_called(here, arguments, answer, card):
    code = NETWORK.replace("(t)], 1)", "(noise_level)], 1)") if "noise_level" in arguments else NETWORK
    built = Built(here, "toy_net.py", DDPM)
    (here / "toy_net.py").write_text(textwrap.dedent(code).format(arguments=arguments, answer=answer))
    written(built.saved().relative_to(here))
    found = ns.load("mine:model")
    assert {name: getattr(found.card, name) for name in card} == card
    with torch.no_grad():
        torch.testing.assert_close(found.model(X, T).eps, built.network(X, torch.full((2,), 99)))


def test_a_further_argument_is_the_one_line_to_fill_in(here):
    built = Built(here, "toy_net.py", DDPM, arguments="self, x, t, horizon")
    text = written(built.saved().relative_to(here))
    assert sum(FILL in line for line in text.splitlines()) == 1
    (here / "mine.py").write_text(text.replace("horizon=...", "horizon=0 * t"))
    assert ns.load("mine:model").model(X, T).eps.shape == X.shape


def test_a_class_of_a_script_is_taken_without_running_the_training(here):
    built = Built(here, "toy_net.py", DDPM)
    script = (here / "toy_net.py").read_text() + "\nfor epoch in range(3):\n    raise SystemExit('it trained')\n"
    (here / "toy_net.py").write_text("import no_such_package\n" + script)
    assert 'ns.adapters.defined_in("toy_net.py", "Denoiser")' in written(built.saved().relative_to(here))
    with torch.no_grad():
        torch.testing.assert_close(ns.load("mine:model").model(X, T).eps, built.network(X, torch.full((2,), 99)))


def test_a_class_of_a_notebook(here):
    built = Built(here, "toy_net.py", DDPM)
    cells = ["!pip install x\n%matplotlib inline", (here / "toy_net.py").read_text(), "print('it ran')\nopen('x', 'w')"]
    notebook = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    (here / "train.ipynb").write_text(json.dumps(notebook))
    (here / "toy_net.py").unlink()
    assert 'defined_in("train.ipynb", "Denoiser")' in written(built.saved().relative_to(here))
    assert ns.load("mine:model").model(X, T).eps.shape == X.shape
    assert not (here / "x").exists()


def test_of_two_classes_the_one_that_the_file_was_saved_from(here):
    built = Built(here, "toy_net.py", DDPM)
    twin = textwrap.dedent(NETWORK).format(arguments="self, x, t", answer="self.out(h)").replace("Denoiser", "Twin")
    (here / "a_twin.py").write_text(twin)
    (here / "other.py").write_text("from a_twin import Twin\nm = Twin(3)\ntorch.save(m.state_dict(), 'other.pt')\n")
    found = beside(built.saved(), contents_of(built.saved()).names)
    assert found.network.name == "Denoiser"
    assert (found.network.arguments, found.network.complete) == ("3, hidden=5", True)


def test_what_is_not_plain_is_left_to_the_person(here):
    built = Built(here, "toy_net.py", DDPM.replace("hidden=5", "hidden=config.hidden"))
    text = written(built.saved().relative_to(here))
    assert "Denoiser(3)  # fill in: it takes dim, hidden=WIDTH" in text


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("Normalize((0.5,), (0.5,))", (-1, 1)),
        ("Normalize(mean=[0.5], std=[1.0])", (-0.5, 0.5)),
        ("transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])", (-1, 1)),
        ("Lambda(lambda x: 2 * x - 1)", (-1, 1)),
        ("Lambda(lambda x: (x - 0.5) * 2)", (-1, 1)),
        ("Lambda(lambda x: (x - 0.5) / 0.5)", (-1, 1)),
        ("Normalize((0.1307,), (0.3081,))", (-0.1307 / 0.3081, (1 - 0.1307) / 0.3081)),
        ("ToTensor()", None),
    ],
)
def test_the_range_of_pixels(here, line, ends):
    (here / "data.py").write_text(f"tf = {line}\nmodel.sample(16, (1, 28, 28))\n")
    found = beside(here / "x.pt", []).training
    assert found.range == (None if ends is None else pytest.approx(ends))
    assert found.shape == (1, 28)


@pytest.mark.parametrize(
    "line",
    [
        "def f(n_steps=100, min_beta=10 ** -4, max_beta=0.02): ...\nf(n_steps=200)",
        "betas = np.linspace(1e-4, 2e-2, 200)",
        "class C:\n    def __init__(self):\n        self.T = 200\n        torch.linspace(0.0001, 0.02, self.T)",
        "DDPM(net, betas=(1e-4, 0.02), n_T=200)",
        "NOISE_STEPS = 200\nD(noise_steps=NOISE_STEPS, beta_start=1e-4, beta_end=0.02)",
    ],
)
def test_betas_and_steps(here, line):
    (here / "ddpm.py").write_text(line)
    assert beside(here / "x.pt", []).training.betas == {"beta_start": 1e-4, "beta_end": 0.02, "steps": 200}


@pytest.mark.parametrize(
    ("call", "time"),
    [
        ("model(xt, t / 200)", (1, -1 / 200)),
        ("model(xt, t / self.n_T)", (1, -1 / 200)),
        ("model(xt, (i / timesteps) * one)", (1, -1 / 200)),
        ("model(xt, t.float().unsqueeze(1) / float(timesteps))", (1, -1 / 200)),
        ("[u := None, model(xt, t / 100)]", (2, -1 / 100)),
        ("model(xt, t / (timesteps - 1))", (200 / 199, -1 / 199)),
        ("[t_norm := 0, model(xt, t.float() / (self.n_T - 1))]", (200 / 199, -1 / 199)),
        ("model(xt, (t + 1) / timesteps)", (1, 0)),
        ("model(xt, (1 + t) / timesteps)", (1, 0)),
        ("model(xt, 2 * (t / timesteps - 0.5))", (2, -1.01)),
        ("model(xt, (t / timesteps - 0.5) * 2)", (2, -1.01)),
        ("model(xt, torch.full((4,), t / timesteps))", (1, -1 / 200)),
        ("model(xt, torch.tensor([t]).float() / timesteps)", (1, -1 / 200)),
        ("model(xt, 1 - t / timesteps)", (-1, 1 + 1 / 200)),
        ("model(xt, t)", (200, -1)),
        ("model(xt, -(t / timesteps - 1))", (-1, 1 + 1 / 200)),
        ("torch.cos(xt, t / timesteps)", (200, -1)),
        ("max(0.0, 1 - t / timesteps)", (200, -1)),
    ],
)
def test_a_step_that_is_divided_before_the_call(here, call, time):
    built = Built(here, "toy_net.py", DDPM.replace("model(xt, t)", call))
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    found = ns.load("mine:model").card.time
    assert (found.scale, found.offset) == pytest.approx(time)
    with torch.no_grad():
        expected = built.network(X, torch.full((2,), 0.5 * time[0] + time[1]))
        torch.testing.assert_close(ns.load("mine:model").model(X, T).eps, expected)


def test_a_step_that_gets_its_name_before_the_call(here):
    training = DDPM.replace(
        "        loss =",
        "        now = torch.full((4,), (t + 1) / timesteps)\n        now = 2 * (now - 0.5)\n"
        "        now = now.unsqueeze(1)\n        loss =",
    )
    built = Built(here, "toy_net.py", training.replace("model(xt, t)", "model(xt, now)"))
    assert FILL not in written(built.saved().relative_to(here))
    found = ns.load("mine:model").card.time
    assert (found.scale, found.offset) == pytest.approx((2, -1))


@pytest.mark.parametrize("call", ["model(xt, torch.log(t / timesteps))", "model(xt, (t / timesteps) ** 2)"])
def test_a_step_that_is_changed_in_another_way_is_for_the_person(here, call):
    built = Built(here, "toy_net.py", DDPM.replace("model(xt, t)", call))
    (line,) = [line for line in written(built.saved().relative_to(here)).splitlines() if FILL in line]
    assert call.removeprefix("model(xt, ")[:-1] in line


def test_a_table_with_a_row_more_than_steps(here):
    betas = torch.linspace(1e-4, 0.02, 201)
    built = Built(here, "toy_net.py", DDPM.replace("model(xt, t)", "model(xt, t / self.n_T)"))
    written(built.saved("gt.", beta_t=betas).relative_to(here))
    found = ns.load("mine:model")
    with torch.no_grad():
        expected = built.network(X, torch.full((2,), 77 / 200))
        torch.testing.assert_close(found.model(X, torch.tensor(78 / 201, dtype=torch.float64)).eps, expected)


def test_which_path_of_two_the_file_near_the_checkpoint_shows(here):
    built = Built(here, "toy_net.py", FLOW, mixed="t * x1 + (1 - t) * z")
    (here / "ddpm.py").write_text("betas = torch.linspace(1e-4, 0.02, 200)\n")
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    assert '"schedule": {"kind": "linear"}' in text
    Path("mine.py").unlink()
    (here / "train.py").write_text((here / "train.py").read_text() + "betas = torch.linspace(1e-4, 0.02, 200)\n")
    assert "# fill in: the code has a straight path too" in written(built.saved().relative_to(here))


QUADRATIC = "torch.linspace(beta_start ** 0.5, beta_end ** 0.5, timesteps) ** 2"
SIGMOID = "torch.sigmoid(torch.linspace(-6, 6, timesteps)) * (beta_end - beta_start) + beta_start"


@pytest.mark.parametrize("table", [QUADRATIC, "torch.linspace(0.0001 ** 0.5, 0.02 ** 0.5, 200) ** 2", SIGMOID])
def test_a_table_that_is_not_linear_is_not_read_as_one(here, table):
    built = Built(here, "toy_net.py", DDPM.replace("torch.linspace(beta_start, beta_end, timesteps)", table))
    text = written(built.saved().relative_to(here))
    if "sigmoid" in table:
        assert "# fill in: the code has a sigmoid table too" in text
        return
    assert FILL not in text
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 200, dtype=torch.float64) ** 2
    torch.testing.assert_close(ns.load("mine:model").model.schedule.alphas_cumprod, (1 - betas).cumprod(0))


def test_two_tables_are_for_the_person_to_choose_from(here):
    built = Built(here, "toy_net.py", DDPM + "    def cosine_beta_schedule(timesteps): ...\n")
    assert "# fill in: the code has a cosine table too" in written(built.saved().relative_to(here))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("self, x", "return lambda x, t: network(...), {  # fill in: its 5 features, 3 of them the state's"),
        ("self, noisy_input, t", "return ns.adapters.weights(FILE, Denoiser(3, hidden=5)), {"),
    ],
)
def test_a_network_without_a_time_of_its_own_and_one_whose_state_has_another_name(here, arguments, line):
    built = Built(here, "toy_net.py", DDPM, arguments=arguments)
    assert line in written(built.saved().relative_to(here))


LABELLED = """
    import torch
    from torch import nn
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            {layer}
            self.inp = nn.Conv2d({channels}, 8, 3, padding=1)
            self.out = nn.Conv2d(8, 1, 3, padding=1)
        def forward({arguments}):
            more = {more}
            return self.out(self.inp(torch.cat([x, more], 1)))
    def beta_schedule(start=1e-4, end=0.02, timesteps=50): ...
"""


@pytest.mark.parametrize(
    ("arguments", "more", "channels", "called"),
    [
        ("self, x, labels", "self.label_embed(labels)[:, :, None, None].expand(-1, -1, 8, 8)", 5, "network(x, label)"),
        ("self, x, t", "t[:, None, None, None].expand(x.shape)", 2, "weights(FILE, Net())"),
    ],
)
def test_channels_that_a_time_or_a_label_fills_are_none_of_the_states(here, arguments, more, channels, called):
    layer = "self.label_embed = nn.Embedding(4, 4)" if "labels" in arguments else "pass"
    code = textwrap.dedent(LABELLED).format(arguments=arguments, more=more, channels=channels, layer=layer)
    (here / "net.py").write_text(code)
    space = {}
    exec(code, space)
    network = space["Net"]()
    torch.save(network.state_dict(), "x.pt")
    text = written("x.pt")
    assert '"shape": [1, 28, 28]' in text
    assert called in text
    assert f"{channels} channels in, others than the state's among them; 1 out" in contents_of("x.pt").facts()["states"]
    Path("mine.py").write_text(text.replace("28, 28", "8, 8"))
    checkpoint = ns.load("mine:model")
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    with torch.no_grad():
        given = label if "labels" in arguments else torch.full((2,), 24)
        answer = checkpoint.model(x, T, label if checkpoint.classes else None).eps
        torch.testing.assert_close(answer, network(x, given))


@pytest.mark.parametrize(
    ("line", "column"),
    [("torch.cat([x, t], -1)", True), ("torch.cat((t, x), dim=1)", True), ("torch.cat([x, t[:, None]], 1)", False)],
)
def test_a_time_that_is_joined_to_the_features_is_a_column(here, line, column):
    code = f"""
        import torch
        from torch import nn
        class Denoiser(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            def forward(self, x, t):
                return self.net({line})
    """
    (here / "toy_net.py").write_text(textwrap.dedent(code))
    (here / "train.py").write_text("z = torch.randn(2, 3)\nxt = (1 - t) * z + t * x1\n")
    torch.save(nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))}).state_dict(), "x.pt")
    text = written("x.pt")
    assert FILL not in text
    found = ns.load("mine:model")
    assert found.card.time.column == column
    assert found.model(X, T).x0.shape == X.shape


def test_a_class_that_a_function_defines(here):
    built = Built(here, "toy_net.py", DDPM)
    code = (here / "toy_net.py").read_text()
    network = code[code.index("class Denoiser") :]
    local = code[: code.index("class Denoiser")] + "def train(hidden):\n    SPARE = WIDTH - 6\n    raise RuntimeError\n"
    local += textwrap.indent(network.replace("dim + 2", "dim + SPARE"), "    ")
    (here / "toy_net.py").write_text(local)
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    assert 'defined_in("toy_net.py", "Denoiser")' in text
    with torch.no_grad():
        torch.testing.assert_close(ns.load("mine:model").model(X, T).eps, built.network(X, torch.tensor([99, 99])))


def test_a_package_that_is_called_as_a_library_is(here):
    built = Built(here, "code/toy_net.py", DDPM)
    assert 'defined_in("code/toy_net.py", "Denoiser")' in written(built.saved().relative_to(here))
    with torch.no_grad():
        torch.testing.assert_close(ns.load("mine:model").model(X, T).eps, built.network(X, torch.tensor([99, 99])))


@pytest.mark.parametrize("name", ["VAE", "ConvAutoEncoder", "Discriminator", "Generator", "DigitClassifier"])
@pytest.mark.parametrize("arguments", ["self, x", "self, x, t"])
def test_a_class_of_something_else_is_refused(here, name, arguments):
    built = Built(here, "toy_net.py", DDPM, arguments=arguments)
    for path in ("toy_net.py", "train.py"):
        (here / path).write_text((here / path).read_text().replace("Denoiser", name))
    result = CliRunner().invoke(main, ["info", str(built.saved()), "--write-wrapper", "mine.py"])
    if arguments == "self, x":
        assert f"of {name} in toy_net.py, which takes no time" in " ".join(result.output.split())
        assert not Path("mine.py").exists()
    else:
        assert result.exit_code == 0


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("data = MNIST(transform=transforms.ToTensor())", "[0, 1]"),
        ("x = pixels / 255.0", "[0, 1]"),
        ("x = pixels / 127.5 - 1", None),
        ("y = [ToTensor(), Normalize((0.5,), (0.5,))]", None),
        ("pass", "[-1, 1]"),
    ],
)
def test_pixels_that_are_not_changed(here, line, ends):
    (here / "net.py").write_text(
        textwrap.dedent(LABELLED).format(arguments="self, x, t", more="t", channels=2, layer="pass")
    )
    (here / "train.py").write_text(line)
    state = {"inp.weight": torch.ones(8, 2, 3, 3), "out.weight": torch.ones(1, 8, 3, 3), "out.bias": torch.ones(1)}
    torch.save(state, "x.pt")
    found = [line for line in written("x.pt").splitlines() if '"range"' in line]
    assert len(found) == (ends is not None)
    assert ends is None or (ends in found[0] and FILL in found[0])


GRAPH = """
    import torch
    from torch import nn
    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.out = nn.Linear({inputs}, 8), nn.Linear(8, {outputs})
        def forward({arguments}): ...
    def main(timesteps=200, beta_start=1e-4, beta_end=0.02): ...
"""


@pytest.mark.parametrize(
    ("arguments", "inputs", "outputs", "says"),
    [
        ("self, x, t, edge_index", 4, 4, "[nodes, features] of one graph"),
        ("self, x", 3, 7, "it takes 3 features and answers with 7"),
        ("self, x", 5, 3, "what the training joins to the state for it"),
    ],
)
def test_what_is_no_plain_state_is_for_the_person(here, arguments, inputs, outputs, says):
    (here / "net.py").write_text(textwrap.dedent(GRAPH).format(arguments=arguments, inputs=inputs, outputs=outputs))
    layers = {"inp": nn.Linear(inputs, 8), "out": nn.Linear(8, outputs)}
    torch.save(nn.ModuleDict(layers).state_dict(), "x.pt")
    assert any(says in line for line in written("x.pt").splitlines() if FILL in line)


EDM = """
    import torch
    from toy_net import Denoiser
    def c_skip(sigma, sigma_data=0.66): return sigma_data ** 2 / (sigma_data ** 2 + sigma ** 2)
    def c_out(sigma, sigma_data=0.66): return sigma * sigma_data / (sigma_data ** 2 + sigma ** 2) ** 0.5
    def c_in(sigma, sigma_data=0.66): return 1 / (sigma_data ** 2 + sigma ** 2) ** 0.5
    def denoise(x, sigma, model):
        return c_skip(sigma) * x + c_out(sigma) * model(c_in(sigma) * x, torch.log(sigma).view(-1) / 4)
    def main(sigma_min=0.01, sigma_max=50):
        model = Denoiser(3, 5)
        torch.save(model.state_dict(), "runs/toy.pt")
"""


def test_a_network_under_edms_preconditioning(here):
    built = Built(here, "toy_net.py", EDM)
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    model = ns.load("mine:model").model
    import train

    level = model.schedule(T)
    with torch.no_grad():
        expected = train.denoise(X, level.sigma.float().expand(2, 1), built.network)
        torch.testing.assert_close(model(X, T).x0, expected)
    assert float(model.schedule(torch.tensor(1.0)).sigma) == pytest.approx(50)


def test_a_denoiser_is_not_preconditioned_twice(here):
    built = Built(here, "toy_net.py", EDM)
    code = (
        (here / "toy_net.py").read_text().replace("return self.out(h)", "return c_skip(t) * x + c_out(t) * self.out(h)")
    )
    (here / "toy_net.py").write_text(code)
    text = written(built.saved().relative_to(here))
    assert "EdmDenoiser" not in text
    assert '"prediction": "x0", "time": {"conditioning": "sigma"}' in text


@pytest.mark.parametrize(
    ("line", "card"),
    [
        ("NULL_CLASS = 0", '"classes": 10, "null_class": 0,'),
        ("uncond_label = 0", '"classes": 10, "null_class": 0,'),
        ("null_label = 10", '"classes": 10, "null_class": 10,'),
        ("uncond_steps = 0", '"classes": 10, "null_class": 10,'),
    ],
)
def test_which_row_is_the_null_class(here, line, card):
    (here / "net.py").write_text(
        textwrap.dedent(LABELLED).format(arguments="self, x, t, y", more="t", channels=1, layer="pass")
    )
    (here / "train.py").write_text(line)
    state = {"inp.weight": torch.ones(8, 1, 3, 3), "out.weight": torch.ones(1, 8, 3, 3), "out.bias": torch.ones(1)}
    torch.save(state | {"label_emb.weight": torch.ones(11, 4)}, "x.pt")
    assert card in written("x.pt")


SDE = """
    import torch
    from toy_net import Denoiser
    sigma = 12.0
    {formula}
    model = Denoiser(3, 5)
    def loss(x, t):
        z = torch.randn_like(x)
        std = marginal_prob_std(t, sigma)
        return (({call} * std[:, None] + z) ** 2).mean()
    torch.save(model.state_dict(), "runs/toy.pt")
"""
EXPLODING = "def marginal_prob_std(t, sigma): return torch.sqrt((sigma ** (2 * t) - 1.) / 2. / np.log(sigma))"
GEOMETRIC = "class VESDE:\n        def std(self, t, sigma_min=0.02, sigma_max=50): return sigma_min * (sigma_max / sigma_min) ** t"
PRESERVING = "class VPSDE:\n        def __init__(self, beta_min=0.2, beta_max=15): self.beta_0 = beta_min"


@pytest.mark.parametrize(
    ("formula", "schedule"),
    [
        (EXPLODING, ns.VarianceExplodingSDE(12)),
        (EXPLODING.replace("sigma ** (2 * t)", "torch.pow(sigma, 2 * t)"), ns.VarianceExplodingSDE(12)),
        (GEOMETRIC, ns.VarianceExploding(0.02, 50)),
        (PRESERVING, ns.VariancePreserving(0.2, 15)),
        (
            "parser.add_argument('--beta-min', default=0.2), parser.add_argument('--beta-max', default=15.0)",
            ns.VariancePreserving(0.2, 15),
        ),
        ("config = {'beta_min': 0.2, 'beta_max': 15}", ns.VariancePreserving(0.2, 15)),
        ("class subVPSDE:\n        beta_min, beta_max = 0.1, 20", ns.SubVariancePreserving()),
    ],
)
@pytest.mark.parametrize(("call", "scale"), [("score_model(x, t)", 1), ("score_model(x, t * 999)", 999)])
def test_the_schedule_of_a_stochastic_differential_equation(here, formula, schedule, call, scale):
    built = Built(here, "toy_net.py", SDE, formula=formula, call=call)
    text = written(built.saved().relative_to(here))
    assert FILL not in text
    found = ns.load("mine:model").model
    level = schedule(T)
    torch.testing.assert_close(torch.stack(found.schedule(T)[:2]), torch.stack(level[:2]))
    with torch.no_grad():
        score = built.network(X, torch.full((2,), 0.5 * scale))
        torch.testing.assert_close(found(X, T).score, score)


def test_two_equations_are_for_the_person_to_choose_from(here):
    built = Built(here, "toy_net.py", SDE, formula=PRESERVING + "\n" + GEOMETRIC, call="score_model(x, t)")
    assert "# fill in: the code has variance-exploding too" in written(built.saved().relative_to(here))


def test_a_score_network_is_made_with_its_spread(here):
    built = Built(
        here,
        "toy_net.py",
        SDE,
        formula=EXPLODING,
        call="score_model(x, t)",
        arguments="self, x, t",
        answer="self.out(h) / self.std(t)[:, None]",
    )
    code = (here / "toy_net.py").read_text()
    head, _, tail = code.rpartition("def __init__(self, dim, hidden=WIDTH):")
    code = head + "def __init__(self, marginal_prob_std, dim=3, hidden=5):\n        self.std = marginal_prob_std" + tail
    code = code.replace(
        "        self.std = marginal_prob_std\n        super().__init__()",
        "        super().__init__()\n        self.std = marginal_prob_std",
    )
    (here / "toy_net.py").write_text(code)
    training = (here / "train.py").read_text()
    (here / "train.py").write_text(
        training.replace("Denoiser(3, 5)", "Denoiser(functools.partial(marginal_prob_std, sigma=sigma))")
    )
    assert FILL not in written(built.saved().relative_to(here))
    from toy_net import Denoiser

    own = Denoiser(lambda t: ((12.0 ** (2 * t) - 1) / 2 / torch.log(torch.tensor(12.0))).sqrt())
    own.load_state_dict(built.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ns.load("mine:model").model(X, T).score, own(X, torch.full((2,), 0.5)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("model(xt, t)", {"scale": 1}),
        ("model(xt, t * 1000)", {"scale": 1000}),
        ("model(xt, 999 * t.squeeze() + 1)", {"scale": 999, "offset": 1}),
        ("model(xt, (t * timesteps).long())", {"scale": 1000, "integer": True}),
        ("[i := 3, model(xt, i / 50)]", {"scale": 1}),
    ],
)
def test_a_time_that_is_multiplied_before_the_call(here, call, words):
    built = Built(here, "toy_net.py", FLOW + "    v = " + call + "\n", mixed="t * x1 + (1 - t) * z")
    assert FILL not in written(built.saved().relative_to(here))
    found = ns.load("mine:model").card.time
    assert {name: getattr(found, name) for name in words} == words
    assert found.zero == "noise"


@pytest.mark.parametrize(
    ("settings", "card"),
    [
        (
            {"beta_start": 0.002, "beta_end": 0.03, "timesteps": 60},
            {"schedule": {"kind": "discrete", "beta_start": 0.002, "beta_end": 0.03, "steps": 60}},
        ),
        (
            {"sde": {"beta_min": 0.3, "beta_max": 9}},
            {"schedule": {"kind": "variance-preserving", "beta_min": 0.3, "beta_max": 9}},
        ),
        (
            {"num_timesteps": 70},
            {"schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 70}},
        ),
        ({"objective": "pred_v"}, {"prediction": "v_prediction"}),
        (
            {"beta1": 0.9, "beta2": 0.999, "epoch": 20},
            {"schedule": {"kind": "discrete", "beta_start": 0.0001, "beta_end": 0.02, "steps": 200}},
        ),
    ],
)
@pytest.mark.parametrize("kept", [dict, lambda settings: argparse.Namespace(**settings)], ids=["mapping", "Namespace"])
def test_settings_in_the_file_tell_more_than_the_code(here, settings, card, kept):
    built = Built(here, "toy_net.py", DDPM)
    content = {"model": built.network.state_dict(), "config": kept(settings), "optimizer": {"beta_start": 5}}
    torch.save(content, "runs/toy.pt")
    written("runs/toy.pt")
    found = ns.load("mine:model").card
    assert {name: getattr(found, name) for name in card} == card


NOTHING = Training(betas=None, certain=True, epsilon=False, to_data=None, range=None, shape=None, null=None)
TABLE = dataclasses.replace(
    NOTHING, betas={"beta_start": 1e-4, "beta_end": 0.02, "steps": 500}, doubt="a straight path"
)


@pytest.mark.parametrize(
    ("number", "taken"), [(9, False), (10, True), (10_000, True), (10_001, False), (100.0, False), (True, False)]
)
def test_a_number_of_steps_is_a_whole_one_of_ten_to_ten_thousand(number, taken):
    found = with_settings(TABLE, settings_in({"timesteps": number}))
    assert found == dataclasses.replace(TABLE, betas=TABLE.betas | ({"steps": number} if taken else {}))


def test_betas_of_the_settings_come_with_their_steps_or_the_codes():
    betas = {"beta_start": 1e-3, "beta_end": 0.03}
    for more, steps in (({}, 500), ({"timesteps": 200}, 200)):
        found = with_settings(TABLE, betas | more)
        assert found.betas == betas | {"steps": steps}
        assert not found.doubt
    assert with_settings(NOTHING, betas).betas == betas
    assert with_settings(NOTHING, {"timesteps": 200}) == NOTHING
    cosine = dataclasses.replace(NOTHING, betas={"betas": "cosine"})
    assert with_settings(cosine, {"timesteps": 200}) == cosine


def test_settings_are_plain_values_of_five_levels():
    nested = {"a": {"b": {"c": {"d": {"steps": 10, "e": {"eta": 1}}}}}}
    assert settings_in(nested) == {"steps": 10}
    others = {"flag": True, "rows": [1], 7: 8, "word": "x", "optimizer": {"lr": 1}, "param_groups": {"lr": 2}}
    assert settings_in(others) == {"word": "x"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta_min": 0.1, "beta_max": 20.0}, {"beta_min": 0.1, "beta_max": 20.0}),
        ({"sde.beta_min": 0.2, "beta_max": 1.0}, {"beta_min": 0.2, "beta_max": 1.0}),
        ({"beta_min": 0.99, "beta_max": 99_999.0}, {"beta_min": 0.99, "beta_max": 99_999.0}),
        ({"beta_min": 1.0, "beta_max": 20.0}, None),
        ({"beta_min": 0.1, "beta_max": 0.99}, None),
        ({"beta_min": 0.0, "beta_max": 20.0}, None),
        ({"beta_min": 0.1, "beta_max": 1e5}, None),
        ({"beta_max": 20.0}, None),
        ({"beta_min": 0.1}, None),
    ],
)
def test_betas_of_a_continuous_schedule_are_on_either_side_of_one(settings, words):
    found = in_settings(settings)
    assert found == (None if words is None else Stochastic({"kind": "variance-preserving", **words}))


def test_of_another_version_of_the_code_the_nearest_class_is_named(here):
    (here / "net.py").write_text(
        "class Net(nn.Module):\n    def __init__(self):\n        self.inp = self.mid = self.out = None\n"
        "    def forward(self, x, t): ...\n"
    )
    parts = ("inp", "mid", "out", "blocks", "a\nimport os #")
    torch.save({f"{name}.weight": torch.zeros(3, 3) for name in parts}, "x.pt")
    text = written("x.pt")
    assert 'Net of "net.py" is nearest, without blocks' in text
    assert "import os" not in text
    compile(text, "mine.py", "exec")


def test_odd_files_are_passed_over(here):
    (here / "broken.py").write_text("def f(:\n")
    (here / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    (here / "bytes.py").write_bytes(b"\xff\xfe\x00")
    (here / "broken.ipynb").write_text("{}")
    (here / "list.ipynb").write_text("[1]")
    assert beside(here / "x.pt", ["a.weight"]) is None


def test_text_of_the_code_stays_data(here):
    built = Built(here, "toy_net.py", DDPM.replace("3, hidden=5", "3, hidden='''x\\nimport os\\nraise SystemExit'''"))
    text = wrapper("mine", contents_of(built.saved()))
    compile(text, "mine.py", "exec")
    assert not any(line.startswith(("import os", "raise")) for line in text.splitlines())


def test_a_wrong_way_to_call_is_named(here):
    class Column(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(50, 3), nn.Linear(3, 3)

        def forward(self, x, t):
            if t.shape != (len(x), 1):
                raise ValueError("t must be (B, 1)")
            return self.out(x + self.table(t)[:, 0])

    card = {"shape": [3], "schedule": {"kind": "discrete", "steps": 50}, "prediction": "epsilon"}
    (here / "mine.py").write_text("model = None\n")
    import mine

    for time, says in (({}, "time: {integer: true, column: true}"), ({"integer": True}, "time: {column: true}")):
        mine.model = lambda time=time: (Column(), {**card, "time": {"scale": 50, "offset": -1, **time}})
        result = CliRunner().invoke(main, ["info", "mine:model"])
        assert f"with {says}" in " ".join(result.output.split()), result.output
    mine.model = lambda: ((lambda t, x: torch.cat([x, t[:, None]], 1)[:, :3]), card)
    assert "with signature: (t, x)" in " ".join(CliRunner().invoke(main, ["info", "mine:model"]).output.split())


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def sample(net, x, t):\n    return net(x, t / 1000)", ["t / 1000"]),
        ("class Net:\n    def forward(self, x, t):\n        return self.embed(x, t / 1000)", []),
        ("class Net:\n    def forward(self, x, y):\n        return self.embed(x, t / 1000)", ["t / 1000"]),
        ("class Net:\n    def loss(self, x, t):\n        return self.net(x, t / 1000)", ["t / 1000"]),
    ],
)
def test_what_a_network_does_with_its_own_step_is_no_call_of_a_network(code, found):
    assert [each.text for each in handed(ast.parse(code))] == found
