"""A `--config` file is options by name: whatever else is in it is one line that names the file, and exit code 2."""

import click
import pytest
from click.testing import CliRunner
from noiseshift.cli import COMMANDS, main, parse
from noiseshift.cli.config import read
from noiseshift.cli.measure import command as measure

from noiseshift.studies import kept


def given(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return read(str(tmp_path / "c.yaml"))


def test_values_are_the_words_of_the_command_line(tmp_path):
    text = "sampler: euler:50\nseed: 010\nrate: 1e-3\ndata: 2024-13-45\nfamily: 1:30\nout: ~\nby: 'null'\nguidance: [none, nag=1]\n"
    assert given(tmp_path, text) == {
        "sampler": "euler:50",
        "seed": "010",
        "rate": "1e-3",
        "data": "2024-13-45",
        "family": "1:30",
        "by": "null",
        "guidance": ["none", "nag=1"],
    }


def test_an_empty_file_sets_nothing(tmp_path):
    assert given(tmp_path, "") == given(tmp_path, "# samples: 8\n") == given(tmp_path, "---\n...\n") == {}


BAD = {
    "a list": "- samples\n- 8\n",
    "a word": "samples",
    "nested": "samples: {least: 8}\n",
    "nested deep": "samples: " + "[" * 20_000,
    "mapping in list": "sampler: [{euler: 5}]\n",
    "alias": "a: &x [1, 2]\nb: *x\n",
    "alias key": "? &x a\n: 1\n? *x\n: 2\n",
    "key of a list": "? [a, b]\n: 1\n",
    "twice": "samples: 8\nsamples: 9\n",
    "merge": "<<: {samples: 8}\n",
    "two documents": "samples: 8\n---\nsamples: 9\n",
    "tab": "\tsamples: 8\n",
    "unclosed": "samples: [8\n",
    "binary": "samples: !!python/object/apply:os.system ['x']\nx: {",
    "control": "samples: \x07\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_anything_else_is_one_line(tmp_path, text):
    with pytest.raises(click.BadParameter) as error:
        given(tmp_path, text)
    assert "c.yaml" in error.value.message
    assert ": " in error.value.message


@pytest.mark.parametrize(
    "text",
    [
        *BAD.values(),
        "samples: [8, 9]\n",
        "samples: eight\n",
        "samples: 2024-13-45\n",
        "samples: .nan\n",
        "samples: -8\n",
        "8: 8\n",
        "true: 8\n",
        "config: c.yaml\n",
        "json: 1\nas_json: 1\n",
        "controls: perhaps\n",
        "out: ''\nsamples: ''\nsampler: ['']\n",
        'data: "a\\0b"\n',
    ],
)
def test_bad_options_in_a_file_are_bad_usage(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    command = "compare" if "sampler" in text else "measure"
    result = CliRunner().invoke(main, [command, "--config", "c.yaml"])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes", "large", "pipe"])
def test_a_file_that_cannot_be_read_is_bad_usage(tmp_path, kind):
    import os

    path = tmp_path / "c.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00samples: 8")
    elif kind == "large":
        path.write_text("#" * 1_000_001)
    elif kind == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    result = CliRunner().invoke(main, ["measure", "--config", str(path)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["no-cache: true", "no_cache: yes", "strict: true\nno-cache: on"])
def test_a_flag_that_no_function_is_handed_is_an_option_too(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with measure.make_context("measure", ["--config", str(tmp_path / "c.yaml")]):
        assert kept.folder() is None
    (tmp_path / "c.yaml").write_text("no-cache: false")
    with measure.make_context("measure", ["--config", str(tmp_path / "c.yaml")]):
        assert kept.folder() is not None


@pytest.mark.parametrize(
    ("text", "shown"), [("no-progress: true", False), ("no-progress: no", True), ("progress: false", False), ("", True)]
)
def test_a_switch_has_both_its_names(text, shown, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert measure.make_context("measure", ["--config", str(tmp_path / "c.yaml")]).params["progress"] is shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_line_is_one_of_a_file(name, tmp_path):
    """By every name that the help has; but the file itself, and the help."""
    command = main.get_command(click.Context(main), name)
    options = [opt for param in command.params for opt in (*param.opts, *param.secondary_opts) if opt.startswith("--")]
    if "--config" not in options:
        pytest.skip(f"{name} has no --config")
    for option in {*options} - {"--config"}:
        (tmp_path / "c.yaml").write_text(f"{option[2:]}: 1\n")
        context = click.Context(command)
        parse.config(context, command.params[0], str(tmp_path / "c.yaml"))  # raises for one that it does not know
        assert len(context.default_map) == 1


@pytest.mark.parametrize("text", ["no-progress: maybe", "no-progress: true\nprogress: true", "no-progress: [true]"])
def test_a_switch_takes_true_or_false(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    done = CliRunner().invoke(main, ["measure", "--config", str(tmp_path / "c.yaml")])
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1
