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


@dataclass(frozen=True)
class Failed:
    """What stands in place of a job's result when it gave none.

    Attributes:
        reason: what happened, in words.
    """

    reason: str


_EVENTS: Any = None


def _start(events: Any) -> None:
    global _EVENTS
    _EVENTS = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears Ctrl-C and ends the workers


def _work(function: str, arguments: dict[str, Any], results: dict[str, Any], keep_going: bool = False) -> Any:
    return _attempt(function, arguments, results, _EVENTS.put, keep_going)


def _attempt(function: str, arguments: dict[str, Any], results: dict[str, Any], report: Report, keep_going: bool) -> Any:
    """Return a job's result, or with ``keep_going`` what it failed of; a folder that cannot be written ends everything all the same."""
    try:
        return call(function, arguments, results, report)
    except BadInput as error:
        if not keep_going or error.where == "out":
            raise
        return Failed(str(error))
    except Exception as error:
        if not keep_going:
            raise
        return Failed(f"{type(error).__name__}: {error}")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(jobs: Iterable[Job], workers: int, report: Report, *, keep_going: bool = False) -> dict[str, Any]:
    """Run jobs, each after those that it needs, and return their results by key.

    Args:
        jobs: in the order in which they should start when free.
        workers: processes; 0 for one for each processor, 1 to stay in this process.
        report: called in this process with every event of a job and with ``{"event": "done", "key": ...}``.
        keep_going: give a job that raises, or whose worker process dies twice, the result `Failed`, and likewise every job that needs it,
            instead of ending with the error.

    Raises:
        WorkersLost: a worker died, and ``keep_going`` is False.
        BadInput: the folder for results cannot be written; or what a job raised, where ``keep_going`` is False.
    """
    shift = _Shift({job.key: job for job in jobs}, report, keep_going)
    workers = min(workers or processors(), len(shift.waiting)) if shift.waiting else 1
    if workers == 1:
        _run_here(shift)
    else:
        _run_apart(shift, workers)
    return shift.results


@dataclass
class _Shift:
    """What waits, what is running and what came out; it outlives a pool of workers that broke.

    Attributes:
        suspects: keys of jobs that were running when a worker died; each is tried once more, alone.
    """

    waiting: dict[str, Job]
    report: Report
    keep_going: bool
    results: dict[str, Any] = field(default_factory=dict)
    running: dict[Future[Any], Job] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)

    def ready(self) -> list[Job]:
        """Return the jobs that can start, after a look at those that never can."""
        found = [job for job in self.waiting.values() if self.results.keys() >= set(job.after)]
        blocked = [job for job in found if any(isinstance(self.results[key], Failed) for key in job.after)]
        for job in blocked:
            key = next(key for key in job.after if isinstance(self.results[key], Failed))
            del self.waiting[job.key]
            self.finish(job.key, Failed(f"needs {key}, which failed: {self.results[key].reason}"))
        return self.ready() if blocked else found

    def startable(self, workers: int) -> list[Job]:
        """Return the jobs to start now in worker processes: as many as are free, and a suspect only by itself."""
        ready = self.ready()
        calm = [job for job in ready if job.key not in self.suspects]
        if any(job.key in self.suspects for job in self.running.values()):
            return []
        return calm[: workers - len(self.running)] if calm or self.running else ready[:1]

    def needed(self, job: Job) -> dict[str, Any]:
        """Return the results that a job needs."""
        return {key: self.results[key] for key in job.after}

    def finish(self, key: str, result: Any) -> None:
        """Keep a result, and tell."""
        self.results[key] = result
        if isinstance(result, Failed):
            self.report({"event": "warning", "title": key, "message": result.reason})
        self.report({"event": "done", "key": key})

    def lose(self) -> None:
        """Put what was running when a worker died back, to be tried alone; give up what was alone."""
        for job in self.running.values():
            if job.key in self.suspects:
                self.finish(job.key, Failed("its worker process was killed twice (out of memory?)."))
            else:
                self.suspects.add(job.key)
                self.waiting[job.key] = job
        self.running.clear()


def _run_here(shift: _Shift) -> None:
    while ready := shift.ready():
        job = ready[0]
        result = _attempt(job.function, job.arguments, shift.needed(job), shift.report, shift.keep_going)
        del shift.waiting[job.key]
        shift.finish(job.key, result)
    _check_nothing_waits(shift)


def _check_nothing_waits(shift: _Shift) -> None:
    if shift.waiting:
        raise BadInput("jobs", f"{sorted(shift.waiting)[0]} waits for a job that does not exist.")


def _run_apart(shift: _Shift, workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(events, stop, shift.report), daemon=True)
    listener.start()
    try:
        while not _run_pool(shift, workers, context, events):
            shift.lose()
        _check_nothing_waits(shift)
    finally:
        stop.set()
        listener.join(timeout=5)


def _run_pool(shift: _Shift, workers: int, context: Any, events: Any) -> bool:
    """Work in one pool of processes until nothing can start; return False if a worker died before that."""
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(events,))
    try:
        _drive(pool, shift, workers)
        return True
    except BrokenProcessPool:
        if not shift.keep_going:
            raise WorkersLost from None
        return False
    except KeyboardInterrupt:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _drive(pool: ProcessPoolExecutor, shift: _Shift, workers: int) -> None:
    while True:
        for job in shift.startable(workers):
            future = pool.submit(_work, job.function, job.arguments, shift.needed(job), shift.keep_going)
            shift.running[future] = shift.waiting.pop(job.key)
        if not shift.running:
            return
        done, _ = wait(shift.running, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            shift.finish(shift.running.pop(future).key, result)


def _listen(events: Any, stop: threading.Event, report: Report) -> None:
    while not stop.is_set():
        try:
            report(events.get(timeout=0.2))
        except queue.Empty:
            continue
        except (OSError, EOFError):
            return
