"""Run many stages in worker processes, one thread each, and tell how far they are."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from expunge.errors import BadInput

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """A stage with plain arguments, so that it can travel to another process as text.

    Attributes:
        key: unique name.
        function: ``module:function``; called with the arguments and ``report``.
        arguments: plain values.
        after: keys of jobs whose results it needs; they are passed as ``results``.
    """

    key: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()


class WorkersLost(RuntimeError):
    """A worker process died; what had finished is kept."""

    def __init__(self):
        super().__init__("a worker process was killed (out of memory?). What was finished is kept: run the same command again to go on.")


def call(function: str, arguments: dict[str, Any], results: dict[str, Any], report: Report) -> Any:
    """Call ``module:function`` in this process."""
    import importlib

    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments, results=results, report=report)


_EVENTS: Any = None


def _start(events: Any) -> None:
    global _EVENTS
    _EVENTS = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears Ctrl-C and ends the workers


def _work(function: str, arguments: dict[str, Any], results: dict[str, Any]) -> Any:
    return call(function, arguments, results, _EVENTS.put)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(jobs: Iterable[Job], workers: int, report: Report) -> dict[str, Any]:
    """Run jobs, each after those that it needs, and return their results by key.

    Args:
        jobs: in the order in which they should start when free.
        workers: processes; 0 for one for each processor, 1 to stay in this process.
        report: called in this process with every event of a job and with ``{"event": "done", "key": ...}``.

    Raises:
        WorkersLost: a worker died.
    """
    waiting = {job.key: job for job in jobs}
    workers = min(workers or processors(), len(waiting)) if waiting else 1
    return _run_here(waiting, report) if workers == 1 else _run_apart(waiting, workers, report)


def _run_here(waiting: dict[str, Job], report: Report) -> dict[str, Any]:
    results: dict[str, Any] = {}
    while waiting:
        job = next(job for job in waiting.values() if results.keys() >= set(job.after))
        results[job.key] = call(job.function, job.arguments, {key: results[key] for key in job.after}, report)
        del waiting[job.key]
        report({"event": "done", "key": job.key})
    return results


def _run_apart(waiting: dict[str, Job], workers: int, report: Report) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(events, stop, report), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(events,))
    try:
        return _drive(pool, waiting, workers, report)
    except BrokenProcessPool:
        raise WorkersLost from None
    except KeyboardInterrupt:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stop.set()
        listener.join(timeout=5)


def _drive(pool: ProcessPoolExecutor, waiting: dict[str, Job], workers: int, report: Report) -> dict[str, Any]:
    results: dict[str, Any] = {}
    running: dict[Future[Any], str] = {}
    while waiting or running:
        ready = [job for job in waiting.values() if results.keys() >= set(job.after)]
        for job in ready[: workers - len(running)]:
            del waiting[job.key]
            running[pool.submit(_work, job.function, job.arguments, {key: results[key] for key in job.after})] = job.key
        if not running:
            raise BadInput("jobs", f"{sorted(waiting)[0]} waits for a job that does not exist.")
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            key = running.pop(future)
            results[key] = future.result()
            report({"event": "done", "key": key})
    return results


def _listen(events: Any, stop: threading.Event, report: Report) -> None:
    while not stop.is_set():
        try:
            report(events.get(timeout=0.2))
        except queue.Empty:
            continue
        except (OSError, EOFError):
            return
