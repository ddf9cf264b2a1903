"""One interface: what fails or loses its worker ends nothing but what needs it, when asked for; an error comes out as it went in."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from expunge.errors import BadInput, Diverged
from expunge.pools import locks, memory
from expunge.pools.executor import Failed, Job, WorkersLost, local, run
from expunge.pools.executors.processes import Processes

HERE = "tests.contract.executor_jobs"
ROOT = Path(__file__).parents[2]


def nothing(event):
    pass


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let worker processes import this folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.syspath_prepend(str(ROOT))


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
    assert [event["title"] for event in heard if event["event"] == "epoch"] == ["square 2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_out_as_they_went_in(workers):
    with pytest.raises(BadInput, match="moves nothing") as raised:
        run(jobs("input"), workers, nothing)
    assert raised.value.where == "addons=lora"
    assert run(jobs("input"), 1, nothing, keep_going=True)["b"] == Failed("addons=lora: moves nothing.")


def test_an_error_that_cannot_travel_is_told_in_words():
    with pytest.raises(RuntimeError, match="Unsendable: holds a lock") as raised:
        run([job("a", "fail", how="odd"), job("b", "square", number=1)], 2, nothing)
    assert "executor_jobs.py" in raised.value.__notes__[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_cannot_be_written_ends_everything(workers):
    with pytest.raises(BadInput, match="disk full"):
        run(jobs("out"), workers, nothing, keep_going=True)


def test_a_worker_that_is_killed_is_replaced_and_its_job_tried_again(tmp_path):
    heard = []
    planned = [
        job("shot", "die", where=str(tmp_path / "log"), times=2),
        *(job(f"ok{number}", "square", number=number) for number in range(3)),
    ]
    results = run(planned, 2, heard.append)
    assert [results[f"ok{number}"] for number in range(3)] == [0, 1, 4] and results["shot"] == 3
    warnings = [event["message"] for event in heard if event["event"] == "warning" and event["title"] == "shot"]
    assert warnings == [f"its worker process was killed by SIGKILL (out of memory?); tried again ({number} of 2)." for number in (1, 2)]


def test_a_job_that_kills_its_worker_again_and_again_costs_itself_alone(tmp_path):
    planned = [job("bad", "die", where=str(tmp_path / "log"), times=9), job("after", "add", after=("bad",)), job("ok", "square", number=2)]
    results = run(planned, Processes(2, retries=1), nothing, keep_going=True)
    assert results["ok"] == 4 and "killed by SIGKILL (out of memory?), 2 times in all" in results["bad"].reason
    assert results["after"].reason.startswith("needs bad, which failed") and (tmp_path / "log").read_text() == "xx"
    with pytest.raises(WorkersLost, match="bad: .* run the same command again"):
        run(planned, Processes(2, retries=0), nothing)


def test_the_last_try_of_a_job_is_made_alone(tmp_path):
    begun = []

    def report(event):
        if event["event"] == "warning" and event["title"] == "shot":
            begun.append(time.monotonic())

    planned = [job("shot", "die", where=str(tmp_path / "log"), times=1)]
    planned += [job(f"w{number}", "overlap", folder=str(tmp_path), seconds=0.3) for number in range(4)]
    results = run(planned, Processes(2, retries=1), report)
    assert results["shot"] == 2 and list(results)[-1] == "shot", "it waited for all others"
    assert len(begun) == 1


def test_as_many_workers_as_memory_allows(monkeypatch):
    need = memory.resident(os.getpid())
    assert need > 50 << 20
    heard = []
    monkeypatch.setattr(memory, "free", lambda: need // 2)
    results = run([job(f"{number}", "square", number=number) for number in range(6)], 4, heard.append)
    assert [results[f"{number}"] for number in range(6)] == [0, 1, 4, 9, 16, 25]
    assert len({event["process"] for event in heard if event["event"] == "epoch"}) == 1
    told = [event["message"] for event in heard if event["event"] == "warning"]
    assert len(told) == 1 and told[0].startswith("1 of 4 worker processes for now: one needs about")


def test_workers_whose_size_is_not_known_yet_count_as_large_as_the_largest(monkeypatch):
    need = memory.resident(os.getpid())
    monkeypatch.setattr(memory, "free", lambda: int(1.5 * need))  # room for a second beside one that is grown, not beside a young one
    heard = []
    run([job(f"{number}", "square", number=number) for number in range(8)], 8, heard.append)
    assert len({event["process"] for event in heard if event["event"] == "epoch"}) <= 2


def test_free_memory_is_known_here():
    assert memory.resident(0) == 0
    free = memory.free()
    assert free is None or free > 0


def test_the_limits_of_containers_and_batch_jobs_count(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert memory.free(tmp_path) is None
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert memory.free(tmp_path) == 8000 << 10
    write("proc/self/cgroup", "0::/slurm/job\n")
    for group, limit in (("", "max"), ("slurm/", "5000000"), ("slurm/job/", "4000000")):
        write(f"sys/fs/cgroup/{group}memory.max", limit)
        write(f"sys/fs/cgroup/{group}memory.current", "3000000")
        write(f"sys/fs/cgroup/{group}memory.stat", "anon 7\ninactive_file 500000\n")
    assert memory.free(tmp_path) == 1_500_000
    write("sys/fs/cgroup/slurm/memory.max", "2000000")
    assert memory.free(tmp_path) == 0, "a limit further out that is passed"
    write("proc/self/cgroup", "4:memory:/box\n0::/\n")
    for name, value in (("limit_in_bytes", "900000"), ("usage_in_bytes", "800000"), ("stat", "total_inactive_file 100\n")):
        write(f"sys/fs/cgroup/memory/box/memory.{name}", value)
    assert memory.free(tmp_path) == 100_100


def test_one_worker_means_this_process_and_none_as_many_as_there_are_processors():
    assert type(local(1)).__name__ == "InProcess" and local(3) == Processes(3, 2)
    heard = []
    run([job("a", "square", number=1), job("b", "square", number=2)], 1, heard.append)
    assert {event["process"] for event in heard if event["event"] == "epoch"} == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_another_driver_makes_is_left_to_it_while_there_is_other_work(tmp_path, workers):
    heard, order, released = [], [], threading.Event()

    def report(event):
        heard.append(event)
        if event["event"] == "done":
            order.append(event["key"])
        if len(order) == 3 and any(event["event"] == "waiting" for event in heard):
            released.set()

    planned = [job("theirs", "locked", folder=str(tmp_path)), *(job(f"ours{number}", "square", number=number) for number in range(3))]
    planned.append(job("last", "square", number=7, after=("theirs",)))
    with locks.hold(tmp_path):
        thread = threading.Thread(target=lambda: heard.append({"event": "results", "all": run(planned, workers, report)}))
        thread.start()
        assert released.wait(timeout=60)
    thread.join(timeout=60)
    assert order[-2:] == ["theirs", "last"] and set(order[:3]) == {"ours0", "ours1", "ours2"}
    assert heard[-1]["all"]["theirs"] == "made"
    waits = [event for event in heard if event["event"] == "waiting"]
    assert [event["title"] for event in waits] == ["theirs"] and waits[0]["for"].startswith(f"process {os.getpid()} on ")


def _driver(tmp_path) -> subprocess.Popen:
    """Start a driver whose two workers write down who they are and stay."""
    text = f"""
import sys
from expunge.pools.executor import Job, run
def report(event):
    if event["event"] == "here":
        print(event["process"], flush=True)
if __name__ == "__main__":
    run([Job(str(n), "{HERE}:stay") for n in range(2)], 2, report)
"""
    path = tmp_path / "driver.py"
    path.write_text(text)
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path, how):
    driver = _driver(tmp_path)
    workers = [int(driver.stdout.readline()) for _ in range(2)]
    assert all(map(_is_alive, workers))
    start = time.monotonic()
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)  # as a terminal does
    else:
        driver.kill()
    _, error = driver.communicate(timeout=20)
    while any(map(_is_alive, workers)):
        assert time.monotonic() - start < 5
        time.sleep(0.05)
    assert error.count("KeyboardInterrupt") == (how == signal.SIGINT), error


def test_errors_survive_a_process_border():
    import pickle

    for error in (BadInput("a", "b", "c"), Diverged(3, "weights", "epoch 1"), WorkersLost("a: lost.")):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error) and type(again) is type(error)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_waits_for_nothing_that_exists_is_refused(workers):
    with pytest.raises(BadInput, match="does not exist"):
        run([job("a", "add", after=("nowhere",)), job("b", "add", after=("nowhere",))], workers, nothing)
    with contextlib.suppress(KeyError):
        run([], workers, nothing)
