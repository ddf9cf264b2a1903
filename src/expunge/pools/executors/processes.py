"""Jobs in worker processes of this machine, as many as its processors and its memory allow.

Each worker has a pipe of its own, so one that is killed takes nothing with it that others need. It is replaced, and its job is tried again.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from expunge.pools import memory
from expunge.pools.executor import Job, Shift, attempt

_SIGNALS = {int(one) for one in signal.Signals}


@dataclass(frozen=True)
class Processes:
    """Worker processes.

    Attributes:
        workers: at most so many. Fewer where memory is short: each needs as much as the largest seen so far, and before one was
            seen as much as this process, which has loaded the same packages and data.
        retries: how often a job is tried again whose worker died. The last time it runs alone, so that memory is not the reason.
    """

    workers: int
    retries: int = 2

    def work(self, shift: Shift) -> None:
        """Run all jobs of a shift that can run."""
        if min(self.workers, len(shift.waiting)) == 1:
            from expunge.pools.executors.in_process import InProcess

            return InProcess().work(shift)
        crew = _Crew(shift, self.workers)
        try:
            crew.drive()
        finally:
            crew.end()


class _Worker:
    """One process, its end of the pipe, and what it is doing."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        with _interrupts_held():  # the worker inherits that; this process hears Ctrl-C and ends the workers
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.largest = 0

    def give(self, job: Job, results: dict[str, Any], keep_going: bool) -> bool:
        """Send a job; return False if the worker is dead."""
        try:
            self.pipe.send((job, results, keep_going))
        except OSError:
            return False
        self.job = job
        return True

    def hear(self) -> tuple[str, Any] | None:
        """Return what the worker says next; None if nothing, and ``("lost", how)`` if it is dead."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            return "lost", self._how()
        if self.process.is_alive() or self.pipe.poll():
            return None
        return "lost", self._how()

    def _how(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            why = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"its worker process was killed by {signal.Signals(-code).name if -code in _SIGNALS else -code}{why}"
        return f"its worker process ended with status {code}"

    def measure(self) -> int:
        """Return the bytes that the process holds, and keep the largest number."""
        size = memory.resident(self.process.pid or 0)
        self.largest = max(self.largest, size)
        return size

    def end(self) -> None:
        """End the process, at once if it is busy."""
        if self.job is not None:
            self.process.terminate()
        self.pipe.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Crew:
    """The workers of a shift."""

    def __init__(self, shift: Shift, limit: int):
        self.shift, self.limit = shift, limit
        self.workers: list[_Worker] = []
        self.need = memory.resident(os.getpid())
        self.told = False

    def drive(self) -> None:
        """Give out jobs and hear of them until nothing can start."""
        while True:
            self._give_out()
            busy = [worker for worker in self.workers if worker.job is not None]
            if not busy and not self.shift.rests:
                return
            connection.wait([worker.pipe for worker in busy], timeout=0.5 if self.shift.rests else 1.0)
            for worker in busy:
                self._listen(worker)
            self.need = max([self.need, *(worker.largest for worker in self.workers if worker.measure())])

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            if worker.job is not None:
                worker.process.terminate()  # all of them, before waiting for the first
        for worker in self.workers:
            worker.end()

    def _give_out(self) -> None:
        for job in self._startable():
            worker = self._free()
            if worker is None:
                return
            if worker.give(job, self.shift.needed(job), self.shift.keep_going):
                self.shift.take(job)
            else:
                self._dismiss(worker)

    def _startable(self) -> list[Job]:
        """Return the jobs to start now; one on its last try only by itself."""
        ready, shift = self.shift.ready(), self.shift
        running = [worker.job for worker in self.workers if worker.job is not None]
        if any(shift.is_last_try(job) for job in running):
            return []
        calm = [job for job in ready if not shift.is_last_try(job)]
        return calm[: self.limit - len(running)] if calm or running else ready[:1]

    def _free(self) -> _Worker | None:
        """Return a worker without a job, a new one if there may be one more."""
        idle = next((worker for worker in self.workers if worker.job is None), None)
        if idle is None and self._may_hire():
            idle = _Worker()
            self.workers.append(idle)
        return idle

    def _may_hire(self) -> bool:
        if not self.workers:
            return True
        free = memory.free() if len(self.workers) < self.limit else 0
        if free is None:
            return True
        growth = sum(max(0, self.need - worker.measure()) for worker in self.workers)
        enough = len(self.workers) < self.limit and free - growth >= self.need
        if not enough and not self.told and len(self.workers) < self.limit:
            self.told = True
            message = (
                f"{len(self.workers)} of {self.limit} worker processes for now: one needs about {self.need >> 20} MB, "
                f"and {max(0, free - growth) >> 20} MB are free."
            )
            self.shift.report({"event": "warning", "title": "memory", "message": message})
        return enough

    def _listen(self, worker: _Worker) -> None:
        while worker.job is not None and (heard := worker.hear()):
            kind, value = heard
            if kind == "event":
                self.shift.report(value)
                continue
            job, worker.job = worker.job, None
            if kind == "result":
                self.shift.finish(job, value)
            elif kind == "error":
                raise value
            else:
                self._dismiss(worker)
                self.shift.lose(job, value)

    def _dismiss(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.end()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Any) -> None:
    """Work until the driver closes the pipe: what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            job, results, keep_going = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_outcome(job, results, lambda event: pipe.send(("event", event)), keep_going))


def _outcome(job: Job, results: dict[str, Any], report: Any, keep_going: bool) -> tuple[str, Any]:
    try:
        return "result", attempt(job, results, report, keep_going)
    except Exception as error:
        return "error", portable(error)


def portable(error: Exception) -> Exception:
    """Return an error that can travel to another process, with the place where it was raised as a note."""
    import pickle

    where = "".join(traceback.format_exception(error))
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = RuntimeError(f"{type(error).__name__}: {error}")
    again.add_note(f"In a worker:\n{where}")
    return again


def _die_with_parent() -> None:
    """End this process at once when the driver is gone, however it went; its unfinished run goes on from its checkpoint later."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
