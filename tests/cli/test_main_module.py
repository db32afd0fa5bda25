"""`python -m noiseshift` imports the libraries, not files of the working directory that are named like them."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from noiseshift.cli.failures import in_one_line

INSTALLED = Path(sys.executable).parent / "noiseshift"


def started(command, *words, cwd):
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True, check=False)


MODULE = [sys.executable, "-m", "noiseshift"]


def test_a_file_of_the_working_directory_shadows_no_library(tmp_path):
    for name in ("torch", "click", "numpy", "yaml", "json", "logging"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    found = started(MODULE, "info", "nowhere.pt", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("error: no checkpoint at nowhere.pt")


def test_a_package_of_the_working_directory_shadows_no_library_and_modules_are_found_by_name(tmp_path):
    for name in ("torch", "click", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name}/ was imported')\n")
    (tmp_path / "mine.py").write_text("def make():\n    return 5\n")
    found = started(MODULE, "info", "mine:make", cwd=tmp_path)
    assert found.returncode == 1
    assert "was imported" not in found.stderr
    assert "int" in found.stderr


@pytest.mark.parametrize("command", [[INSTALLED], [sys.executable, "-P", "-m", "noiseshift"]], ids=["installed", "-P"])
@pytest.mark.parametrize("shadows", [["noiseshift.py"], ["noiseshift/__init__.py", "torch/__init__.py", "numpy.py"]])
def test_the_package_itself_is_not_shadowed_where_the_pages_say_so(command, shadows, tmp_path):
    """Plain `-m` runs a noiseshift.py that lies there before any code of ours: SECURITY.md names these two instead."""
    if command[0] == INSTALLED and not INSTALLED.exists():
        pytest.skip("the command is not installed beside this Python")
    for shadow in shadows:
        place = tmp_path / shadow
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"raise SystemExit('{shadow} was imported')\n")
    found = started(command, "--version", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "version" in found.stdout


def test_a_module_that_a_library_hides_is_said(tmp_path):
    """`json:make` with a json.py in the working directory means that file, and would be given Python's own."""
    (tmp_path / "json.py").write_text("def make():\n    return 5\n")
    found = started(MODULE, "info", "json:make", cwd=tmp_path)
    assert found.returncode == 1
    assert "an installed module is called json too" in found.stderr
    assert found.stderr.strip().endswith("rename json.py")


def test_a_working_directory_that_was_deleted_is_said(tmp_path, monkeypatch):
    words = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m noiseshift info nowhere.pt"
    found = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("error: the working directory was deleted: change to one")
    assert len(found.stderr.splitlines()) == 1
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert in_one_line(FileNotFoundError(errno.ENOENT, "No such file or directory")).startswith(
        "the working directory was deleted"
    )
