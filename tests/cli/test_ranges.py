"""Every option's range is checked before any work: no value of any option that takes a number gets by with nonsense."""

import click
import pytest
from click.testing import CliRunner
from noiseshift.cli import COMMANDS, main
from noiseshift.cli.ranges import SIDES

NUMERIC = [
    (name, param.opts[0])
    for name in COMMANDS
    for param in main.get_command(click.Context(main), name).params
    if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType)
]
WORDS = [
    *[("measure", "--guidance", f"cfg={word}") for word in ("nan", "inf", "-inf", "1e309", "", "x", "1e40")],
    *[("compare", "--guidance", word) for word in ("cfg=nan", "foo=1", "none,cfg=1")],
    *[("correct", option, word) for option in ("--nag", "--cfg") for word in ("nan", "1,inf", "1,,2", "x")],
    *[("correct", "--method", f"{name}={word}") for name in ("nag", "tsg", "closed-loop") for word in ("nan", "1e309")],
    *[("approx", "--times", word) for word in ("0", "1", "0.1,0.1", "nan", "-0.5", "2")],
    *[("approx", "--ratios", word) for word in ("0", "-1", "inf", "0.1,0.1")],
]


def refused(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_there_are_numeric_options():
    assert len(NUMERIC) > 30


@pytest.mark.parametrize(("command", "option"), NUMERIC)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e309", "", "x", "10" + "0" * 30, "٣x", "9" * 5000])
def test_nonsense_for_a_number_is_bad_usage(command, option, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(command, option, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_nonsense_in_a_word_of_numbers_is_bad_usage(words):
    refused(*words)


@pytest.mark.parametrize("words", [("measure", "--data", ""), ("info", ""), ("report", ""), ("sample", "--out=")])
def test_an_empty_word_is_bad_usage(words):
    assert "empty" in refused(*words)


@pytest.mark.parametrize(("word", "size"), [("512", 512), ("512x768", (512, 768)), ("512×768", (512, 768))])
def test_a_size_is_a_side_or_height_and_width(word, size):
    assert SIDES(word) == size


@pytest.mark.parametrize("word", ["512x", "x", "1x2x3", "0x8", "8.5"])
def test_what_is_no_size_is_said(word):
    with pytest.raises(click.BadParameter):
        SIDES(word)
