"""Killed at any moment and started again, by one driver or by two, a run ends with the weights of an undisturbed one."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = [
    "evaluate", "data=digits", "model=mlp", "train=tiny", "train.epochs=8", "forget=random", "forget.fraction=0.1",
    "method=salun", "method.epochs=2", "evaluate.seeds=2",
]  # fmt: skip


def _start(out, *more) -> subprocess.Popen:
    command = [sys.executable, "-c", "from expunge.cli import main\nif __name__ == '__main__': main()", *WORDS, f"out={out}", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def _finish(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def _records(out) -> dict[str, tuple[int, dict]]:
    """Return when it was written and what it says of every record, by folder; a half-written one is no JSON."""
    found = {path.parent.name: path for path in out.glob("*/record.json") if path.parent.name[:7] != "compare"}
    return {name: (path.stat().st_mtime_ns, json.loads(path.read_text())) for name, path in found.items()}


def _weights(out) -> dict[str, str]:
    """Return the weights hash of every run, by folder."""
    return {name: record["weights"] for name, (_, record) in _records(out).items()}


def _starts(out) -> dict[str, int]:
    return {path.parent.name: path.read_text().count('"event": "start"') for path in out.glob("*/events.jsonl")}


def _kill_and_resume(tmp_path, kills: int, seed: int) -> None:
    """Kill a run ``kills`` times while it works, going on each time; whenever it gets to its end, compare and begin a new one."""
    start = time.monotonic()
    _finish(_start(tmp_path / "calm"))
    whole = time.monotonic() - start
    expected = _weights(tmp_path / "calm")
    assert len(expected) == 6
    moments, stormy, hits = random.Random(seed), tmp_path / "stormy", 0
    while hits < kills:
        process = _start(stormy)
        time.sleep(moments.uniform(0.1, whole))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate()
        if list(stormy.glob("compare-*/record.json")):
            assert _weights(stormy) == expected
            shutil.rmtree(stormy)
    _finish(_start(stormy))
    assert _weights(stormy) == expected
    assert not list(stormy.rglob("*checkpoint*")) and not list(stormy.rglob(".*"))


def test_two_kills(tmp_path):
    _kill_and_resume(tmp_path, kills=2, seed=1)


def _processes(driver: int) -> list[int]:
    """Return the driver and its worker processes."""
    found = [driver]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _makers(out: Path) -> set[int]:
    """Return the processes that hold a run folder, or held it when they were killed."""
    found = set()
    for path in out.glob("*/.lock"):
        with contextlib.suppress(FileNotFoundError):
            found.add(json.loads(path.read_bytes())["process"])
    return found


def _wait(driver: subprocess.Popen) -> None:
    driver.wait(timeout=300)
    driver.stderr.close()


class _Watch:
    """Sees that no finished run of a store is lost, changed or begun again."""

    def __init__(self, out: Path):
        self.out, self.seen, self.starts = out, {}, {}

    def look(self) -> None:
        found = _records(self.out)
        for name, record in self.seen.items():
            assert found.get(name) == record, f"{name} was finished and then lost or made again"
        begun = _starts(self.out)
        self.seen, self.starts = found, {name: self.starts.get(name, begun[name]) for name in found}
        assert all(begun[name] == count for name, count in self.starts.items()), "a finished run was begun again"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_hundred_kills_of_drivers_and_workers(tmp_path):
    """``EXPUNGE_KILLS=300`` takes more of them."""
    calm, words = tmp_path / "calm", ("train.epochs=20", "evaluate.workers=2", "evaluate.retries=4", "evaluate.seeds=3")
    _finish(_start(calm, *words))
    expected = _weights(calm)
    assert len(expected) == 9
    kills, chance = int(os.environ.get("EXPUNGE_KILLS", "100")), random.Random(3)
    hits, rounds, driver, watch = {"driver": 0, "worker": 0}, 0, None, _Watch(tmp_path / "0")
    began = time.monotonic()
    while sum(hits.values()) < kills:
        if driver is None or driver.poll() is not None:
            if driver is not None:
                _wait(driver)
            driver = _start(watch.out, *words)  # workers of the last driver may still be alive
        early = chance.random() < 0.2  # while it starts; else while a run is being made
        while driver.poll() is None and not early and not _makers(watch.out) & set(_processes(driver.pid)):
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 8.0))
        watch.look()
        alive = _processes(driver.pid) if driver.poll() is None else []
        if alive:
            victim = driver.pid if len(alive) == 1 or chance.random() < 0.3 else chance.choice(alive[1:])
            os.kill(victim, signal.SIGKILL)
            hits["driver" if victim == driver.pid else "worker"] += 1
            if victim == driver.pid:
                _wait(driver)
        if list(watch.out.glob("compare-*/record.json")):
            _wait(driver)
            assert _weights(watch.out) == expected
            rounds, watch = rounds + 1, _Watch(tmp_path / str(rounds + 1))
    _wait(driver)
    _finish(_start(watch.out, *words))
    watch.look()
    print(f"{hits}, {rounds} rounds finished, {time.monotonic() - began:.0f} s, starts {sorted(_starts(watch.out).values())}")
    assert _weights(watch.out) == expected and min(hits.values()) > 0
    assert not list(watch.out.rglob("*checkpoint*")) and not list(watch.out.rglob(".*"))


@pytest.mark.slow
def test_two_drivers_share_a_store_and_make_each_run_once(tmp_path):
    words = ("train.epochs=40", "evaluate.workers=1")
    one, other = _start(tmp_path, *words), _start(tmp_path, *words)
    _finish(one)
    _finish(other)
    assert len(_weights(tmp_path)) == 6 and set(_starts(tmp_path).values()) == {1}
    assert not list(tmp_path.rglob(".*"))


def test_ctrl_c_stops_within_seconds_and_says_how_to_go_on(tmp_path):
    driver = _start(tmp_path, "train.epochs=2000", "evaluate.workers=2")
    while len(list(tmp_path.glob("*/events.jsonl"))) < 2:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    workers = _processes(driver.pid)[1:] if Path("/proc").is_dir() else []
    start = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    _, error = driver.communicate(timeout=30)
    assert time.monotonic() - start < 10 and driver.returncode == 130
    assert error.decode().strip() == "expunge: interrupted; what was finished is kept: run the same command again to go on."
    assert not any(Path(f"/proc/{worker}").is_dir() for worker in workers)
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob(".*.*"))
