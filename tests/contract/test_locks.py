"""A lock that a dead process does not hold: on one machine, and between machines that share a folder."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from expunge.errors import BadInput
from expunge.pools import locks

HOLDER = """
import sys, time
from pathlib import Path
from expunge.pools import locks
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_killed_process_holds_nothing(tmp_path, holder):
    with locks.impatient(), pytest.raises(locks.Busy, match=f"process {holder.pid} on "), locks.hold(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists(), "the file is still there, and means nothing"
    with locks.impatient(), locks.hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_bytes())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_is_told_once_for_whom_and_goes_on_when_it_is_free(tmp_path):
    told, order = [], []

    def second():
        with locks.hold(tmp_path, told.append):
            order.append("second")

    with locks.hold(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and told == [f"process {os.getpid()} on {locks._host()}"]


def test_only_one_of_many_holds(tmp_path):
    inside, most, rounds = [0], [0], [0]

    def enter():
        for _ in range(10):
            with locks.hold(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1
                rounds[0] += 1

    sleep = time.sleep
    threads = [threading.Thread(target=enter) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks.time, "sleep", lambda seconds: sleep(min(seconds, 0.002)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] and rounds == [40]


def elsewhere(folder, beats=0):
    """Write the lock of a process on another machine."""
    content = {"beats": f"{beats:012d}", "process": 7, "host": "far", "machine": "another kernel"}
    (folder / ".lock").write_bytes(json.dumps(content).encode())


def is_free(folder):
    try:
        with locks.impatient(), locks.hold(folder):
            return True
    except locks.Busy as busy:
        assert busy.holder == "process 7 on far"
        return False


def test_a_process_on_another_machine_is_dead_when_its_number_stands_still(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    elsewhere(tmp_path)
    assert not is_free(tmp_path)
    for beats in range(1, 5):  # it lives, however long that takes
        now[0] += locks.STALE_SECONDS - 1
        elsewhere(tmp_path, beats)
        assert not is_free(tmp_path)
    now[0] += locks.STALE_SECONDS - 1
    assert not is_free(tmp_path)
    now[0] += 2
    assert is_free(tmp_path)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_clocks_that_jump_play_no_part(tmp_path, monkeypatch, jump):
    elsewhere(tmp_path)
    assert not is_free(tmp_path)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    os.utime(tmp_path / ".lock", (wall() - jump, wall() - jump))
    assert not is_free(tmp_path)


def test_the_number_of_a_living_process_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "_THREAD", [])
    with locks.hold(tmp_path):
        first = (tmp_path / ".lock").read_bytes()
        deadline = time.monotonic() + 10
        while (tmp_path / ".lock").read_bytes() == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len((tmp_path / ".lock").read_bytes()) == len(first)


@pytest.mark.parametrize("error", [None, OSError("no such locks here")])
def test_without_locks_of_the_kernel_the_number_decides(tmp_path, monkeypatch, error):
    if error is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(error))
    now = [0.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    with locks.hold(tmp_path), locks.impatient(), pytest.raises(locks.Busy), locks.hold(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()
    (tmp_path / ".lock").write_bytes(locks._holder(3))  # a process of this machine that was killed
    with locks.impatient(), pytest.raises(locks.Busy), locks.hold(tmp_path):
        pass
    now[0] += locks.STALE_SECONDS + 1
    with locks.impatient(), locks.hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said_clearly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot lock .*Not a directory"), locks.hold(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("moment", ["before the file", "before the link"])
def test_a_folder_that_is_cleared_up_at_that_moment_is_made_again(tmp_path, monkeypatch, moment):
    """Whoever makes many models at once takes empty folders away when nobody holds them."""
    folder, gone, call = tmp_path / "train-1", [], "open" if moment == "before the file" else "link"
    real = getattr(os, call)

    def late(path, *more):
        if not gone and str(path).startswith(str(folder)):
            gone.append(folder)
            for left in folder.iterdir():
                left.unlink()
            folder.rmdir()
        return real(path, *more)

    monkeypatch.setattr(locks.os, call, late)
    with locks.impatient(), locks.hold(folder):
        assert (folder / ".lock").is_file()
    assert gone and list(folder.iterdir()) == []


def test_a_lock_that_cannot_be_read_is_not_taken_for_free(tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    with locks.hold(tmp_path):
        monkeypatch.setattr(locks.os, "open", refused)
        assert locks.is_held(tmp_path) is None
        monkeypatch.undo()


def test_who_looks_on_sees_whether_a_folder_is_held_and_changes_nothing(tmp_path, holder):
    assert locks.is_held(tmp_path) is True and locks.is_held(tmp_path / "none") is False
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert locks.is_held(tmp_path) is False and (tmp_path / ".lock").exists()


def test_of_another_machine_it_is_told_once_its_number_moves_or_stands_still(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])

    def beat(number):
        (tmp_path / ".lock").write_text(json.dumps({"beats": number, "process": 1, "host": "far", "machine": "another"}))
        return locks.is_held(tmp_path)

    assert beat(1) is None and beat(1) is None, "it may be dead"
    assert beat(2) is True
    now[0] += locks.STALE_SECONDS - 1
    assert beat(2) is True
    now[0] += 2
    assert beat(2) is False and beat(3) is True
