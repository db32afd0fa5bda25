"""Places that may be written, and all those that may not: refused in words, with nothing touched."""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from forking import said_by

from noiseshift.writing import PlaceError, check_file, check_folder, whole_folder
from noiseshift.writing.marks import MARK, adopt, own_version, read_mark, remove_run, strangers, write_mark


def files_under(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's working directory, with files of theirs, and a home."""
    here = tmp_path / "work" / "project"
    (here / "src").mkdir(parents=True)
    (here / "src" / "thesis.tex").write_text("years of work")
    (here / "notes.txt").write_text("mine")
    (tmp_path / "home" / "pictures").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    return here


REFUSED = [
    *("", " ", ".", "./", "..", "../", "./.", "../..", "src", "src/", "./src", "src/.", "src/..", "nothing/.."),
    *("../project", "../project/", "~", "~/run", "~root", "notes.txt", "notes.txt/", "notes.txt/run", "/", "//", "/."),
    *(
        "/dev/null",
        "$PWD",
        "$PWD/",
        "$HOME",
        "$HOME/",
        "$HOME/..",
        "$PARENT",
        "link",
        "link/",
        "dangling",
        "\0",
        "x" * 300,
    ),
    *("link/..", "here", "here/", "dangling/run", "dangling/a/b/run", "link/gone/run", "further/run", "further/../run"),
]


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.parametrize("adding", [False, True])
def test_nothing_but_a_place_of_its_own_is_written(words, adding, project, tmp_path):
    (project / "link").symlink_to(project / "src")
    (project / "here").symlink_to(project)
    (project / "dangling").symlink_to(tmp_path / "nowhere")
    (project / "further").symlink_to("dangling")
    (project / "src" / "gone").symlink_to(tmp_path / "nowhere" / "deeper")
    words = words.replace("$PWD", str(project)).replace("$HOME", os.environ["HOME"]).replace("$PARENT", str(tmp_path))
    before = files_under(tmp_path)
    with pytest.raises(PlaceError) as refused:
        check_folder(words, "measure", adding=adding)
    assert "\n" not in str(refused.value)
    with pytest.raises(PlaceError), whole_folder(words, "measure"):
        pass
    assert files_under(tmp_path) == before


def test_a_linked_working_directory_is_known_under_both_names(project, tmp_path, monkeypatch):
    for link in (tmp_path / "link", tmp_path / "up"):
        link.symlink_to(project if link.name == "link" else project.parent)
    (tmp_path / "up" / "project" / "notes.txt").unlink()
    monkeypatch.chdir(tmp_path / "link")
    for words in (project, tmp_path / "up" / "project", tmp_path / "link", "../project", ".."):
        with pytest.raises(PlaceError):
            check_folder(words, "measure")


def test_an_empty_home_or_working_directory_is_not_taken_either(tmp_path, monkeypatch):
    for name in ("home", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    for words in (tmp_path / "home", tmp_path / "cwd", "../home"):
        with pytest.raises(PlaceError):
            check_folder(words, "measure")


def test_a_mount_point_is_not_taken(tmp_path):
    place = tmp_path / "mount"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True).returncode:
        pytest.skip("mounting takes root")
    try:
        with pytest.raises(PlaceError, match="mount point"):
            check_folder(place, "measure")
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_is_known_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PlaceError, match="cannot be written"):
        check_folder(tmp_path / "run", "measure")


@pytest.mark.parametrize(
    "words", ["run", "./run", "run/", "src/../run", "deep/er/run", "runs.v1", ".hidden", "ré sumé"]
)
def test_new_and_empty_folders_are_places(words, project):
    check_folder(words, "measure")
    Path(words).mkdir(parents=True)
    with whole_folder(words, "measure") as fresh:
        (fresh / "run.json").write_text("{}")
    assert {p.name for p in Path(words).iterdir()} == {"run.json", MARK}
    check_folder(words, "measure")


def test_a_folder_through_a_linked_parent_is_a_place(project, tmp_path):
    (tmp_path / "disk").mkdir()
    Path("runs").symlink_to(tmp_path / "disk")
    with whole_folder("runs/a", "measure") as fresh:
        (fresh / "run.json").write_text("{}")
    assert (tmp_path / "disk" / "a" / "run.json").exists()


def made(folder, kind="measure", **files):
    with whole_folder(folder, kind) as fresh:
        for name, text in ({"run.json": "{}"} | {k.replace("_", "."): v for k, v in files.items()}).items():
            (fresh / name).write_text(text)
    return Path(folder)


def test_only_a_run_of_the_same_command_is_replaced(tmp_path):
    run = made(tmp_path / "run", "measure", run_json='"first"')
    made(run, "measure", run_json='"second"')
    assert (run / "run.json").read_text() == '"second"'
    for kind in ("correct", "approx", "compare", "train"):
        with pytest.raises(PlaceError, match="run of noiseshift measure"):
            made(run, kind)
    assert (run / "run.json").read_text() == '"second"'
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "added", ["notes.txt", "figures/mine.png", "a/b/c.txt", ".git/HEAD", ".hidden", "other run/run.json"]
)
def test_what_a_user_put_into_a_run_is_never_deleted(added, tmp_path):
    run = made(tmp_path / "run")
    (run / added).parent.mkdir(parents=True, exist_ok=True)
    (run / added).write_text("mine")
    before = files_under(tmp_path)
    with pytest.raises(PlaceError, match="did not write"):
        made(run)
    assert files_under(tmp_path) == before


def test_links_and_empty_folders_in_a_run_are_not_ours(tmp_path):
    run, elsewhere = made(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.json").write_text("theirs")
    for make in (lambda p: p.symlink_to(elsewhere), lambda p: p.mkdir()):
        make(run / "link")
        with pytest.raises(PlaceError, match="did not write"):
            made(run)
        (run / "link").unlink() if (run / "link").is_symlink() else (run / "link").rmdir()
    (run / "run.json").unlink()
    (run / "run.json").symlink_to(elsewhere / "run.json")  # in the place of a file of ours
    with pytest.raises(PlaceError, match="did not write"):
        made(run)
    assert (elsewhere / "run.json").read_text() == "theirs"


def test_a_file_put_in_while_the_run_goes_on_is_kept(tmp_path):
    run = made(tmp_path / "run")

    def write():
        with whole_folder(run, "measure") as fresh:
            (fresh / "run.json").write_text("new")
            (run / "mine.txt").write_text("mine")

    with pytest.raises(PlaceError, match=r"mine\.txt.*run\.kept-1"):
        write()
    assert (run / "mine.txt").read_text() == "mine"
    assert (run / "run.json").read_text() == "{}"
    assert (tmp_path / "run.kept-1" / "run.json").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "words",
    ["", "{", "[]", "{}", '{"kind": 1, "files": []}', '{"kind": "measure"}', '{"kind": "measure", "files": "*"}'],
)
def test_a_mark_that_does_not_say_so_marks_nothing(words, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / MARK).write_text(words)
    with pytest.raises(PlaceError):
        made(tmp_path / "project")


def test_a_mark_cannot_name_files_elsewhere(tmp_path):
    run = made(tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    about = json.loads((run / MARK).read_text())
    about["files"] += ["../mine.txt", str(tmp_path / "mine.txt"), "..", "."]
    (run / MARK).write_text(json.dumps(about))
    made(run)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_files_that_are_added_by_us_belong_to_the_run(tmp_path):
    run = made(tmp_path / "run")
    (run / "report.html").write_text("page")
    assert strangers(run, read_mark(run)) == ["report.html"]
    adopt(run, [run / "report.html"])
    assert strangers(run, read_mark(run)) == []
    made(run)
    assert not (run / "report.html").exists()


OLD = {
    "measure": {"checkpoint": {}, "sampler": "heun:25", "samples": 8, "versions": {"noiseshift": "0.1.0"}},
    "approx": {"ratios": [1], "samples": 8, "checkpoint": {}, "versions": {"noiseshift": "0.1.0"}},
    "correct": {
        "methods": ["none"],
        "samples": 8,
        "sampler": "x",
        "checkpoint": {},
        "versions": {"noiseshift": "0.1.0"},
    },
}


@pytest.mark.parametrize("kind", OLD)
def test_a_run_of_version_0_1_is_known_by_its_run_json(kind, tmp_path):
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(OLD[kind]))
    (run / "figures" / "shift.png").write_text("x")
    (run / "report.html").write_text("x")
    (run / "mine.txt").write_text("mine")
    with pytest.raises(PlaceError, match=r"mine\.txt"):
        check_folder(run, kind)
    (run / "mine.txt").unlink()
    other = {"measure": "correct"}.get(kind, "measure")
    with pytest.raises(PlaceError, match=f"not of {other}"):
        check_folder(run, other)
    made(run, kind)
    assert {p.name for p in run.iterdir()} == {"run.json", MARK}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "about", [{}, {"checkpoint": 1}, {"versions": {"noiseshift": "0.1"}}, OLD["measure"] | {"versions": 1}]
)
def test_another_programs_run_json_is_no_run_of_ours(about, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    with pytest.raises(PlaceError):
        check_folder(tmp_path / "run", "measure")


def test_removing_a_run_that_was_half_removed_goes_on(tmp_path):
    run = made(tmp_path / "run", a_txt="a", b_txt="b")
    (run / "run.json").unlink()
    assert remove_run(run)
    assert not run.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("theirs")
    assert not remove_run(tmp_path / "other")
    write_mark(tmp_path / "other", "measure", [])
    assert not remove_run(tmp_path / "other")
    assert (tmp_path / "other" / "x").exists()


def test_a_file_is_replaced_where_it_is_ours_or_with_leave(tmp_path):
    place = tmp_path / "x.txt"
    ours = lambda path: path.read_text() == "ours"  # noqa: E731
    check_file(place, ours)
    place.write_text("theirs")
    with pytest.raises(PlaceError, match="--overwrite"):
        check_file(place, ours)
    check_file(place, ours, overwrite=True)
    place.write_text("ours")
    check_file(place, ours)
    place.write_bytes(b"\xff")  # what cannot be read is not ours
    with pytest.raises(PlaceError):
        check_file(place, ours)


@pytest.mark.parametrize(
    "words", ["", ".", "..", "~/x.txt", "folder", "folder/", "link.txt", "pipe", "/dev/null", "x.pdf", "file/x.txt"]
)
def test_files_are_not_written_anywhere_even_with_leave(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("mine")
    Path("link.txt").symlink_to(tmp_path / "file")
    os.mkfifo("pipe")
    with pytest.raises(PlaceError):
        check_file(words, lambda path: True, overwrite=True, suffixes=() if words != "x.pdf" else (".txt",))
    assert Path("file").read_text() == "mine"


def test_a_working_directory_that_was_deleted_loses_no_result(tmp_path, monkeypatch):
    """Nobody may be refused, after hours, for where the shell that began the run has been."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.delenv("HOME")
    for number in ("1", "2"):
        with whole_folder(tmp_path / "run", "measure") as fresh:
            (fresh / "run.json").write_text(number)
    assert (tmp_path / "run" / "run.json").read_text() == "2"


NOBODY = 65534


def by_a_user(work, *arguments):
    """What `work` says in a process of a user who is not root."""
    own_version()  # the other user may not be let into the folder that noiseshift is installed in

    def as_nobody():
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return work(*arguments)

    return said_by(as_nobody)


@pytest.fixture
def everybodys():
    """A folder that every user may write to; what lies in it goes whatever its permissions are."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)
        for folder in [Path(name), *(path for path in Path(name).rglob("*") if path.is_dir())]:
            folder.chmod(0o777)


def a_run(place, *, closing=None, mode=0o555):
    """A run is written; `closing` (relative to it) loses its permissions while it goes on."""
    with whole_folder(place, "measure") as fresh:
        (fresh / "figures").mkdir()
        (fresh / "figures" / "a.png").write_text("x")
        (fresh / "run.json").write_text("{}")
        if closing is not None:
            (place / closing).chmod(mode)
    return "written"


@pytest.mark.parametrize("closed", [".", "figures"])
@pytest.mark.parametrize("mode", [0o555, 0o000, 0o666])
def test_a_run_that_may_not_be_removed_is_refused_before_any_work(closed, mode, everybodys):
    place = everybodys / "run"
    assert by_a_user(a_run, place) == "written"
    assert by_a_user(a_run, place) == "written"
    (place / closed).chmod(mode)
    for adding in (False, True):
        said = by_a_user(functools.partial(check_folder, place, "measure", adding=adding))
        assert said.startswith("PlaceError: ") or (adding and closed != "."), said
    assert sorted(os.listdir(everybodys)) == ["run"]


@pytest.mark.parametrize("closed", [".", "figures"])
def test_an_old_run_that_turns_out_to_be_closed_stays_beside_the_new_one(closed, everybodys):
    place = everybodys / "run"
    assert by_a_user(a_run, place) == "written"
    said = by_a_user(lambda: a_run(place, closing=closed))
    assert "kept-1" in said or said == "written"
    assert sorted(os.listdir(everybodys)) == ["run", "run.kept-1"]
    for found in ("run", "run.kept-1"):
        assert (everybodys / found / "run.json").exists()
        assert (everybodys / found / MARK).exists()


def test_a_new_run_whose_folder_turns_out_to_be_closed_is_not_lost(everybodys):
    (everybodys / "mine").mkdir(mode=0o777)
    (everybodys / "mine").chmod(0o777)
    if os.geteuid() == 0:
        os.chown(everybodys / "mine", NOBODY, NOBODY)
    said = by_a_user(lambda: a_run(everybodys / "mine" / "run"))
    assert said == "written"
    said = by_a_user(lambda: a_run(everybodys / "mine" / "run", closing=".."))
    assert "the new run is in" in said
    assert Path(said.rpartition(" is in ")[2], "run.json").exists()
    assert (everybodys / "mine" / "run" / "run.json").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes files of two users")
@pytest.mark.parametrize("kind", ["run", "file", "empty"])
def test_what_only_another_user_may_replace_is_refused_before_any_work(kind, everybodys):
    """As in /tmp: everybody writes there, and removes what is their own alone."""
    everybodys.chmod(0o1777)
    place = everybodys / "it"
    if kind == "run":
        a_run(place)
        for path in (place, *place.rglob("*")):
            path.chmod(0o777)
    elif kind == "file":
        place.write_text("ours")
        place.chmod(0o666)
    else:
        place.mkdir(mode=0o777)
        place.chmod(0o777)
    check = (
        (lambda: check_file(place, lambda path: True)) if kind == "file" else (lambda: check_folder(place, "measure"))
    )
    assert "another user's" in by_a_user(check)
    os.chown(place, NOBODY, NOBODY)
    assert by_a_user(check) == str(place)
