"""A job that fails ends nothing but what needs it, when asked for; an error comes out of a worker as it went in."""

import os
import signal
from pathlib import Path

import pytest

from expunge.errors import BadInput, Diverged
from expunge.pools.executor import Failed, Job, WorkersLost, run

HERE = "tests.contract.test_executor"


def square(number, results, report):
    return number * number


def add(results, report):
    return sum(results.values())


def fail(how, results, report):
    raise {"memory": MemoryError("no room"), "input": BadInput("addons=lora", "moves nothing."), "out": BadInput("out", "disk full.")}[how]


def die(where, results, report):
    with open(where, "a") as log:
        log.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let worker processes import this file."""
    import sys

    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.syspath_prepend(root)
    yield
    sys.modules.pop(HERE, None)


def job(key, function, after=(), **arguments):
    return Job(key, f"{HERE}:{function}", arguments, tuple(after))


def jobs(how):
    return [
        job("a", "square", number=2),
        job("b", "fail", how=how),
        job("c", "add", after=("a", "b")),
        job("d", "add", after=("c",)),
        job("e", "add", after=("a",)),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_jobs_and_those_that_need_them_are_marked_and_the_others_go_on(workers):
    heard = []
    results = run(jobs("memory"), workers, heard.append, keep_going=True)
    assert results["a"] == 4 and results["e"] == 4
    assert results["b"] == Failed("MemoryError: no room")
    assert results["c"].reason == "needs b, which failed: MemoryError: no room" and results["d"].reason.startswith("needs c, which failed")
    assert sorted(event["key"] for event in heard if event["event"] == "done") == list("abcde")


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_out_as_they_went_in(workers):
    with pytest.raises(BadInput, match="moves nothing") as raised:
        run(jobs("input"), workers, lambda event: None)
    assert raised.value.where == "addons=lora"
    assert run(jobs("input"), 1, lambda event: None, keep_going=True)["b"] == Failed("addons=lora: moves nothing.")


def test_a_folder_that_cannot_be_written_ends_everything():
    with pytest.raises(BadInput, match="disk full"):
        run(jobs("out"), 1, lambda event: None, keep_going=True)


def test_a_worker_that_is_killed_twice_costs_its_own_job_alone(tmp_path):
    planned = [job("bad", "die", where=str(tmp_path / "log")), *(job(f"ok{number}", "square", number=number) for number in range(3))]
    results = run(planned, 2, lambda event: None, keep_going=True)
    assert [results[f"ok{number}"] for number in range(3)] == [0, 1, 4]
    assert "killed twice" in results["bad"].reason and (tmp_path / "log").read_text() == "xx"
    with pytest.raises(WorkersLost):
        run(planned, 2, lambda event: None)


def test_errors_survive_a_process_border():
    import pickle

    for error in (BadInput("a", "b", "c"), Diverged(3, "weights", "epoch 1")):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error) and type(again) is type(error)


def test_a_job_that_waits_for_nothing_that_exists_is_refused():
    with pytest.raises(BadInput, match="does not exist"):
        run([job("a", "add", after=("nowhere",))], 1, lambda event: None)
