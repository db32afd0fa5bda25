"""New beside old, then in its place: at whatever point a process is killed, nothing is lost and the next one clears up."""

import datetime
import json
import logging
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noiseshift.training.states import keep_state, kept_state
from noiseshift.writing import (
    BusyError,
    PlaceError,
    claimed,
    claimed_file,
    merged_folder,
    replaced_file,
    whole_file,
    whole_folder,
)
from noiseshift.writing.locks import lock_of, locked
from noiseshift.writing.marks import MARK, read_mark

FORK = multiprocessing.get_context("fork")
CALLS = ("rename", "replace", "unlink", "rmdir", "mkdir", "open", "remove")


def in_child(work, *arguments):
    """The exit code of `work(*arguments)` in a process of its own; killed: -9."""
    process = FORK.Process(target=work, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def killed_at(count, work, *arguments):
    """`work` in a process that is killed before its `count`-th change of the file system."""
    left = [count]

    def hook(event, args):
        changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod") or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changes:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work(*arguments)


def write(folder, text, names=("run.json", "figures/a.png", "figures/b.png")):
    with whole_folder(folder, "measure") as fresh:
        for name in names:
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_text(text)


def texts(folder):
    return {p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != MARK}


def merge(folder, text):
    with merged_folder(folder, "compare", "last.json") as fresh:
        for name in ("a.csv", "b.csv", "last.json"):
            (fresh / name).write_text(text)


def until_it_ends(work, *arguments):
    """Kill `work` at each of its changes in turn; yields after each kill, and ends when it was not reached."""
    for count in range(200):
        code = in_child(killed_at, count, work, *arguments)
        yield code
        if code == 0:
            return
    raise AssertionError("never finished")


def test_a_run_killed_at_any_change_is_whole_old_or_whole_new(tmp_path):
    run, kills = tmp_path / "runs" / "run", 0
    write(run, "old")
    for code in until_it_ends(write, run, "new"):
        kills += code == -signal.SIGKILL
        if code:
            with claimed(run, "measure"):
                assert texts(run) in ({"old"}, {"new"})
        write(run, "old")
        assert [p.name for p in run.parent.iterdir()] == ["run"]
        assert texts(run) == {"old"}
    assert kills > 20


def test_a_first_run_killed_at_any_change_leaves_nothing_in_the_way(tmp_path):
    run = tmp_path / "runs" / "run"
    for code in until_it_ends(write, run, "new"):
        if code:
            assert not run.exists() or texts(run) == {"new"}
        write(run, "again")
        assert texts(run) == {"again"}
        assert [p.name for p in run.parent.iterdir()] == ["run"]
        in_child(subprocess.run, ["rm", "-r", str(run.parent)])


def test_a_comparison_killed_at_any_change_is_read_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "compare"
    merge(folder, "old")
    (folder / "cell").mkdir()
    (folder / "cell" / "mine.txt").write_text("kept")
    for code in until_it_ends(merge, folder, "new"):
        if code and (folder / "last.json").exists():
            assert len({(folder / name).read_text() for name in ("a.csv", "b.csv", "last.json")}) == 1
        merge(folder, "old")
        assert {p.name for p in tmp_path.iterdir()} == {"compare"}
        assert {p.name for p in folder.iterdir()} == {"a.csv", "b.csv", "last.json", "cell", MARK}
        assert (folder / "cell" / "mine.txt").read_text() == "kept"


def test_an_error_while_writing_leaves_the_old_run(tmp_path):
    run = tmp_path / "run"
    write(run, "old")

    def fail():
        with whole_folder(run, "measure") as fresh:
            (fresh / "run.json").write_text("new")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert texts(run) == {"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as fresh:
            fresh.write_text("half")
            assert fresh.suffix == ".txt"
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    with whole_file(path) as fresh:
        fresh.write_text("new")
        fresh.chmod(0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("came", ["a file", "a link to a file", "a link to nothing", "a folder", "a pipe"])
def test_what_came_while_a_file_was_written_stays_and_the_new_one_too(came, tmp_path):
    place, other = tmp_path / "x.npz", tmp_path / "other"
    other.write_text("mine")
    make = {
        "a file": lambda: place.write_text("mine"),
        "a link to a file": lambda: place.symlink_to(other),
        "a link to nothing": lambda: place.symlink_to("nothing"),
        "a folder": place.mkdir,
        "a pipe": lambda: os.mkfifo(place),
    }[came]

    def write():
        with replaced_file(place, lambda there: False) as fresh:
            fresh.write_text("new")
            make()

    with pytest.raises(PlaceError, match=r"x\.npz\.kept-1"):
        write()
    assert other.read_text() == "mine"
    assert place.is_symlink() == came.startswith("a link")
    assert came != "a file" or place.read_text() == "mine"
    assert (tmp_path / "x.npz.kept-1").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "other", "x.npz.kept-1"}


def test_a_folder_that_is_added_to_is_made_marked_and_goes_again_when_nothing_is(tmp_path):
    place = tmp_path / "a" / "training"
    with claimed(place, "train", adding=True):
        assert read_mark(place).kind == "train"
    assert not (tmp_path / "a").exists()
    with claimed(place, "train", adding=True):
        (place / "state.pt").write_text("x")
    with claimed(place, "train", adding=True):
        pass
    assert {p.name for p in place.iterdir()} == {"state.pt", MARK}


def hold(place, ready, kind="measure"):
    with claimed(place, kind):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A live process that holds tmp_path / "run"."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_place_is_held_by_one_process(tmp_path, holder):
    with pytest.raises(BusyError) as busy, claimed(tmp_path / "run", "measure"):
        pass
    assert f"process {holder.pid} on {socket.gethostname()}" in str(busy.value)
    assert "since" in str(busy.value)
    with pytest.raises(BusyError), whole_folder(tmp_path / "run", "measure"):
        pass
    with claimed(tmp_path / "other", "measure"):  # only this one
        pass


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="time zones are the process's own but on Windows")
@pytest.mark.parametrize("zone", ["XYZ-99:99", "ABC+24", ":nonsense", "Pacific/Kiritimati", ""])
def test_a_place_is_held_in_any_time_zone(zone, tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setenv("TZ", zone)
        time.tzset()
        with claimed(tmp_path / "run", "measure"):
            since = json.loads((tmp_path / ".run.lock").read_text())["since"]
    time.tzset()
    assert abs(datetime.datetime.fromisoformat(since).timestamp() - time.time()) < 60


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder, caplog):
    holder.kill()
    holder.join()
    assert lock_of(tmp_path / "run").exists()
    with caplog.at_level(logging.WARNING), claimed(tmp_path / "run", "measure"):
        assert f"process {holder.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_the_systems_own_is_known_by_process_and_start(tmp_path, monkeypatch):
    """File systems without flock, and a process number that was given out again."""
    monkeypatch.setattr("noiseshift.writing.locks.fcntl", None)
    place = tmp_path / "run"
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(place, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(BusyError, match=f"process {process.pid}"), claimed(place, "measure"):
        pass
    about = json.loads(lock_of(place).read_text())
    lock_of(place).write_text(json.dumps(about | {"started": "another time"}))
    with claimed(place, "measure"):
        pass
    process.kill()
    process.join()


def test_a_lock_of_another_host_is_respected_and_its_removal_is_explained(tmp_path):
    place = tmp_path / "run"
    lock_of(place).write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "started": "x", "since": "then", "command": "y"})
    )
    with pytest.raises(BusyError, match=r"elsewhere.*remove .*\.run\.lock"), claimed(place, "measure"):
        pass


@pytest.mark.parametrize(
    "words", ["", "{", "[]", "{}", '{"pid": "x", "host": 1}', '{"pid": -1, "host": ""}', "\0" * 100]
)
def test_a_damaged_lock_is_taken_over(words, tmp_path):
    lock_of(tmp_path / "run").write_text(words)
    with claimed(tmp_path / "run", "measure"):
        pass
    assert list(tmp_path.iterdir()) == []


def link(lock):
    (lock.parent / "mine.txt").write_text("mine")
    lock.symlink_to("mine.txt")


def hard_link(lock):
    (lock.parent / "mine.txt").write_text("mine")
    os.link(lock.parent / "mine.txt", lock)


def folder_in_its_place(lock):
    lock.mkdir()
    (lock / "mine.txt").write_text("mine")


STRANGE = {
    "link": link,
    "hard link": hard_link,
    "link to nothing": lambda lock: lock.symlink_to("nothing"),
    "folder": folder_in_its_place,
    "pipe": os.mkfifo,
    "notes": lambda lock: lock.write_text("mine"),
    "another program's": lambda lock: lock.write_text('{"name": "mine", "pid": 7}'),
    "deeply nested": lambda lock: lock.write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_lock_of_ours_is_neither_written_nor_removed(kind, tmp_path):
    lock = lock_of(tmp_path / "run")
    STRANGE[kind](lock)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with (
        pytest.raises(PlaceError, match=r"\.run\.lock is where the lock of run goes"),
        claimed(tmp_path / "run", "measure"),
    ):
        pass
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("length", [1, 3, 6, 30, 100])
def test_a_lock_that_was_cut_off_is_taken_over(length, tmp_path):
    lock_of(tmp_path / "run").write_text((json.dumps({"pid": os.getppid(), "host": "x" * 200}) + "\n")[:length])
    with claimed(tmp_path / "run", "measure"):
        pass
    assert list(tmp_path.iterdir()) == []


def _write_with_room(size, work, place):
    """`work` where no file may grow beyond `size` bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        work(place)
    except OSError as error:
        os._exit(7 if place.name in str(error) else 8)  # a line without a name would not say which disk


def _a_file(place):
    with claimed_file(place, lambda path: True) as real, whole_file(real) as fresh:
        fresh.write_bytes(b"x" * 5000)


def _a_folder(place):
    with whole_folder(place, "measure") as fresh:
        (fresh / "table.csv").write_bytes(b"x" * 5000)


def _an_addition(place):
    with merged_folder(place, "compare", "last.json") as fresh:
        (fresh / "last.json").write_bytes(b"x" * 5000)


@pytest.mark.parametrize("work", [_a_file, _a_folder, _an_addition])
@pytest.mark.parametrize("size", [0, 1, 10, 60, 1000])
def test_a_disk_without_room_is_left_as_it_was(work, size, tmp_path):
    """Not even the lock stays, wherever in it the room ended; the error names the place."""
    assert in_child(_write_with_room, size, work, tmp_path / "place") == 7
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_process_made_meanwhile_is_left(tmp_path):
    """Ours was removed, as a message says for a lock of another host."""
    lock = lock_of(tmp_path / "run")
    with claimed(tmp_path / "run", "measure"):
        lock.unlink()
        lock.write_text("of another process")
    assert lock.read_text() == "of another process"


def race(place, start, log):
    start.wait()
    for _ in range(30):
        try:
            with locked(place):
                with log.open("a") as file:
                    file.write(f"in {os.getpid()}\n")
                time.sleep(0.001)
                with log.open("a") as file:
                    file.write(f"out {os.getpid()}\n")
        except BusyError:
            time.sleep(0.001)


def test_many_processes_never_hold_a_place_at_once(tmp_path):
    start, log = FORK.Event(), tmp_path / "log"
    processes = [FORK.Process(target=race, args=(tmp_path / "run", start, log)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    lines = log.read_text().split("\n")[:-1]
    assert len(lines) > 20
    for before, after in zip(lines[::2], lines[1::2], strict=True):
        assert before.replace("in", "out") == after


def test_one_process_may_claim_twice_and_another_thread_may_not(tmp_path):
    import threading

    place, seen = tmp_path / "run", []

    def other():
        try:
            with claimed(place, "measure"):
                seen.append("held")
        except BusyError:
            seen.append("busy")

    with claimed(place, "measure"):
        write(place, "inner")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert lock_of(place).exists()
    assert seen == ["busy"]
    assert not lock_of(place).exists()


def test_what_killed_processes_left_of_a_file_goes(tmp_path):
    place = tmp_path / "x.png"
    for name in (".x.png.new-0123abcd.png", ".y.png.new-0123abcd.png", ".x.png.new-mine.png"):
        (tmp_path / name).write_text("half")
    with claimed_file(place, lambda path: True):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {".y.png.new-0123abcd.png", ".x.png.new-mine.png"}


@pytest.mark.parametrize("adding", [False, True])
def test_a_folder_whose_mark_was_not_finished_is_a_new_one(adding, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    (place / ".noiseshift.json.new-0123abcd.json").write_text('{"ki')
    with claimed(place, "train", adding=adding):
        assert not list(place.glob("*.new-*"))
    place.mkdir(exist_ok=True)
    (place / ".noiseshift.json.new-0123abcd.json").write_text('{"ki')
    write(place, "new")
    assert texts(place) == {"new"}


def add(folder, text):
    with claimed(folder, "train", adding=True) as place:
        keep_state(place, {"step": 1}, [{"loss": text}])


def test_a_training_killed_at_any_change_goes_on(tmp_path):
    folder = tmp_path / "train"
    for _ in until_it_ends(add, folder, "old"):
        add(folder, "old")
        assert kept_state(folder)["log"] == [{"loss": "old"}]
        assert {p.name for p in folder.iterdir()} == {"state.pt", "log.jsonl", MARK}
        assert json.loads((folder / "log.jsonl").read_text()) == {"loss": "old"}
        in_child(subprocess.run, ["rm", "-r", str(folder)])


def test_leftovers_in_a_folder_that_is_added_to_go(tmp_path):
    place = tmp_path / "train"
    with claimed(place, "train", adding=True):
        (place / "state.pt").write_text("x")
    for name in (".state.pt.new-0123abcd.pt", ".cell.lock"):
        (place / name).write_text("")
    (place / ".cell.new-0123abcd").mkdir()
    write(place / "gone", "old")
    (place / "gone").rename(place / ".gone.old-0123abcd")
    with claimed(place, "train", adding=True):
        assert {p.name for p in place.iterdir()} == {"state.pt", MARK, "gone"}
    assert texts(Path(place / "gone")) == {"old"}
