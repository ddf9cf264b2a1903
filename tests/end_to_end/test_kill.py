"""Killed at any moment and started again, a run ends with the weights of an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

WORDS = [
    "evaluate", "data=digits", "model=mlp", "train=tiny", "train.epochs=8", "forget=random", "forget.fraction=0.1",
    "method=salun", "method.epochs=2", "evaluate.seeds=2",
]  # fmt: skip


def _start(out) -> subprocess.Popen:
    command = [sys.executable, "-c", "from expunge.cli import main\nif __name__ == '__main__': main()", *WORDS, f"out={out}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def _finish(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def _weights(out) -> dict[str, str]:
    """Return the weights hash of every run, by folder."""
    records = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/record.json") if path.parent.name[:7] != "compare"}
    return {name: record["weights"] for name, record in records.items()}


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
    assert not list(stormy.rglob("*checkpoint*"))


def test_two_kills(tmp_path):
    _kill_and_resume(tmp_path, kills=2, seed=1)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    _kill_and_resume(tmp_path, kills=20, seed=2)
