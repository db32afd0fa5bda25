"""`python -m noiseshift` imports the libraries, not files of the working directory that are named like them."""

import subprocess
import sys


def test_a_file_of_the_working_directory_shadows_no_library(tmp_path):
    for name in ("torch", "click", "numpy", "yaml", "json", "logging"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    found = subprocess.run(
        [sys.executable, "-m", "noiseshift", "info", "nowhere.pt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: no checkpoint at nowhere.pt")


def test_modules_of_the_working_directory_are_still_found_by_name(tmp_path):
    (tmp_path / "mine.py").write_text("def make():\n    return 5\n")
    found = subprocess.run(
        [sys.executable, "-m", "noiseshift", "info", "mine:make"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "int" in found.stderr


def test_a_module_that_a_library_hides_is_said(tmp_path):
    """`json:make` with a json.py in the working directory means that file, and would be given Python's own."""
    (tmp_path / "json.py").write_text("def make():\n    return 5\n")
    found = subprocess.run(
        [sys.executable, "-m", "noiseshift", "info", "json:make"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "an installed module is called json too" in found.stderr
    assert found.stderr.strip().endswith("rename json.py")
