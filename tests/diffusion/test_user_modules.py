"""A user's network is more than the file that defines it: a change of any module of theirs that it uses makes it another one."""

import importlib
import sys

import pytest

from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.sources import sources

WAYS = {
    "the module": ("import helper", "helper.factor()"),
    "under another name": ("import helper as other", "other.factor()"),
    "a function of it": ("from helper import factor", "factor()"),
    "within": ("", "inner()", "def inner():\n    import helper\n    return helper.factor()"),
    "a function of it, within": ("", "inner()", "def inner():\n    from helper import factor\n    return factor()"),
    "through a third": ("import third", "third.factor()"),
    "through a third, as a function": ("from third import factor", "factor()"),
    "a module of a package": ("import pack.inside", "pack.inside.factor()"),
    "a name of a package": ("from pack import inside", "inside.factor()"),
    "relative, in a package": ("from pack.beside import factor", "factor()"),
    "within, relative, in a package": ("from pack.beside import late", "late()"),
    "by a method": (
        "import helper",
        "Holder().factor()",
        "class Holder:\n    def factor(self):\n        return helper.factor()",
    ),
    "a constant": ("import helper", "helper.FACTOR"),
}
"""How a network's file comes by a factor: its imports, the expression, what else it defines."""

FACTOR = "FACTOR = {0}\n\ndef factor():\n    return FACTOR\n"


def write(folder, way, factor):
    first, expression, *more = WAYS[way]
    body = "\n".join([first, *more, f"def network(x, t):\n    return x * ({expression})\n"])
    files = {
        "own.py": body,
        "helper.py": FACTOR.format(factor),
        "third.py": "import helper\nfrom helper import factor\n",
        "pack/__init__.py": "",
        "pack/inside.py": FACTOR.format(factor),
        "pack/beside.py": "from .inside import factor\n\ndef late():\n    from . import inside\n    return inside.factor()\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def loaded(folder, *, asked):
    """What the network is, and what it answers; with `asked` it answers first, which may import more."""
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "helper", "third", "pack")]:
        del sys.modules[name]
    network = importlib.import_module("own").network
    answers = [network(1, 0)] if asked else []
    return identity(network), (answers or [network(1, 0)])[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # compiled files are known by their time, in seconds
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "helper", "third", "pack")]:
        del sys.modules[name]


@pytest.mark.parametrize("way", WAYS)
def test_a_change_of_any_module_that_a_network_uses_makes_it_another(way, folder):
    write(folder, way, 1)
    first, same = loaded(folder, asked=False), loaded(folder, asked=True)
    assert first == same == (same[0], 1)  # asking it changes nothing
    write(folder, way, 2)
    now, answer = loaded(folder, asked=False)
    assert answer == 2
    assert now != first[0]


def test_sources_are_read_and_not_run(folder):
    write(folder, "the module", 1)
    (folder / "pack" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    (folder / "helper.py").write_text(
        "import own, os, torch, nothing.at_all, pack.inside\nfrom ... import too_far\n1 +\n"
    )
    (folder / "third.py").write_text("import helper, own, numpy\nfrom pack import inside, nobody\n")
    assert set(sources("third")) == {"third", "helper", "own", "pack", "pack.inside"}
    assert sources("nothing.at_all") == sources("torch") == sources("noiseshift.diffusion") == {}
