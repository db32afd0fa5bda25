"""--method, --nag and --cfg as methods."""

from click.testing import CliRunner
from noiseshift.cli import main
from noiseshift.cli.parse import guided_methods, parse_method


def test_every_scale_alone_and_every_pair():
    assert [m.name for m in guided_methods((0, 0.5), (1.0,))] == ["nag=0.5", "cfg=1", "cfg=1,nag=0.5"]


def test_a_former_word_is_read_with_a_line_on_stderr(capsys):
    found = parse_method("blind-free=0.5")
    assert (found.name, found.kind) == ("level-nag=0.5", "level-nag")
    assert capsys.readouterr().err.splitlines() == [
        "warning: the method blind-free=0.5 is called level-nag=0.5 now; the old word is read until the next release"
    ]
    assert parse_method("level-nag=0.5").describe() == found.describe()
    assert capsys.readouterr().err == ""
    assert "blind-free" not in CliRunner().invoke(main, ["correct", "--help"]).output
