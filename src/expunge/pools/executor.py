"""Jobs, the order in which they may run, and the one interface behind which they run: in this process, in worker processes, or on Ray.

An executor (`expunge.pools.executors`) has one verb, ``work(shift)``: it takes what the shift says may start, and tells the shift what came
out, what lost its worker, and what another driver is making at the moment. All rules of order, failure and repetition are the shift's.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from expunge.errors import BadInput, is_about_results
from expunge.pools import locks

if TYPE_CHECKING:
    from expunge.pools.workplace import Workplace

Report = Callable[[dict[str, Any]], None]
REST_SECONDS = 0.5
"""How long a job rests that another driver is making, before it is looked at again."""


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
    """A job lost its worker more often than it is tried again; what had finished is kept."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(f"{reason} What was finished is kept: run the same command again to go on.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel as it is."""
        return type(self), (self.reason,)


@dataclass(frozen=True)
class Failed:
    """What stands in place of a job's result when it gave none.

    Attributes:
        reason: what happened, in words.
    """

    reason: str


@dataclass(frozen=True)
class Later:
    """What stands in place of a result when another driver is making it at the moment.

    Attributes:
        holder: who, in words.
    """

    holder: str


class Executor(Protocol):
    """Where jobs run.

    Attributes:
        retries: how often a job is tried again that has lost its worker.
    """

    @property
    def retries(self) -> int:
        """How often a job is tried again that has lost its worker."""
        ...

    def work(self, shift: "Shift") -> None:
        """Run all jobs of a shift that can run."""
        ...


def call(function: str, arguments: dict[str, Any], results: dict[str, Any], report: Report) -> Any:
    """Call ``module:function`` in this process."""
    import importlib

    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments, results=results, report=report)


def attempt(job: Job, results: dict[str, Any], report: Report, keep_going: bool) -> Any:
    """Return a job's result, `Later`, or with ``keep_going`` what it failed of.

    Raises:
        BadInput: a folder that cannot be read or written ends everything all the same.
    """
    try:
        with locks.impatient():
            return call(job.function, job.arguments, results, report)
    except locks.Busy as busy:
        return Later(busy.holder)
    except BadInput as error:
        if not keep_going or is_about_results(error):
            raise
        return Failed(str(error))
    except Exception as error:
        if not keep_going:
            raise
        return Failed(f"{type(error).__name__}: {error}")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places(work: "Workplace") -> int:
    """Return how many jobs of an experiment run at once on this machine, if its memory allows it."""
    asked = work.experiment.evaluate
    return asked.workers or max(1, processors() // asked.threads)


def local(workers: int, retries: int = 2) -> Executor:
    """Return the executor for this machine: worker processes, or this process where one worker is asked for."""
    from expunge.pools.executors.in_process import InProcess
    from expunge.pools.executors.processes import Processes

    return InProcess() if workers == 1 else Processes(workers, retries)


def chosen(work: "Workplace") -> Executor:
    """Return the executor that an experiment asks for.

    Raises:
        BadInput: Ray is asked for and is not installed.
    """
    asked = work.experiment.evaluate
    if not asked.ray:
        return local(places(work), asked.retries)
    from expunge.pools.executors.ray import Ray

    gpus = asked.gpus if work.device.type == "cuda" else 0.0
    return Ray(asked.ray, out=work.experiment.out, device=work.device.type, cpus=asked.threads, gpus=gpus, retries=asked.retries)


def run(jobs: Iterable[Job], where: int | Executor, report: Report, *, keep_going: bool = False) -> dict[str, Any]:
    """Run jobs, each after those that it needs, and return their results by key.

    Args:
        jobs: in the order in which they should start when free.
        where: an executor, or a number of processes: 0 for as many as there are processors, 1 to stay in this process.
        report: called in this process with every event of a job and with ``{"event": "done", "key": ..., "result": ...}``.
        keep_going: give a job that raises, or that loses its worker again and again, the result `Failed`, and likewise every job that
            needs it, instead of ending with the error.

    Raises:
        WorkersLost: a job lost its worker again and again, and ``keep_going`` is False.
        BadInput: the folder for results cannot be written; or what a job raised, where ``keep_going`` is False.
    """
    executor = local(where or processors()) if isinstance(where, int) else where
    shift = Shift({job.key: job for job in jobs}, report, keep_going, executor.retries)
    if shift.waiting:
        executor.work(shift)
    if shift.waiting:
        raise BadInput("jobs", f"{sorted(shift.waiting)[0]} waits for a job that does not exist.")
    return shift.results


@dataclass
class Shift:
    """What waits, what came out, and what has lost its worker.

    Attributes:
        waiting: jobs that have not started.
        report: hears every event.
        keep_going: see `run`.
        retries: how often a job is tried again that has lost its worker.
        results: by key.
        losses: key -> how often the job has lost its worker.
    """

    waiting: dict[str, Job]
    report: Report
    keep_going: bool = False
    retries: int = 2
    results: dict[str, Any] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)
    _resting: dict[str, float] = field(default_factory=dict)

    def ready(self) -> list[Job]:
        """Return the jobs that can start now, after a look at those that never can."""
        found = [job for job in self.waiting.values() if self.results.keys() >= set(job.after)]
        blocked = [job for job in found if any(isinstance(self.results[key], Failed) for key in job.after)]
        for job in blocked:
            key = next(key for key in job.after if isinstance(self.results[key], Failed))
            self.take(job)
            self.finish(job, Failed(f"needs {key}, which failed: {self.results[key].reason}"))
        if blocked:
            return self.ready()
        now = time.monotonic()
        return [job for job in found if self._resting.get(job.key, 0.0) <= now]

    @property
    def rests(self) -> bool:
        """Whether a job waits for nothing but another driver that is making it."""
        return bool(self._resting.keys() & self.waiting.keys())

    def take(self, job: Job) -> None:
        """Let a job start."""
        del self.waiting[job.key]

    def needed(self, job: Job) -> dict[str, Any]:
        """Return the results that a job needs."""
        return {key: self.results[key] for key in job.after}

    def finish(self, job: Job, result: Any) -> None:
        """Keep a result, and tell; a job that another driver is making waits again, behind the others."""
        if isinstance(result, Later):
            if job.key not in self._resting:
                self.report({"event": "waiting", "title": job.key, "for": result.holder})
            self._resting[job.key] = time.monotonic() + REST_SECONDS
            self.waiting[job.key] = job
            return
        self.results[job.key] = result
        if isinstance(result, Failed):
            self.report({"event": "warning", "title": job.key, "message": result.reason})
        self.report({"event": "done", "key": job.key, "result": result})

    def lose(self, job: Job, how: str) -> None:
        """Put a job that has lost its worker back, or give it up after as many retries as are stated.

        Args:
            job: what was running.
            how: what happened to the worker, in words.

        Raises:
            WorkersLost: it is given up, and the shift does not keep going.
        """
        self.losses[job.key] += 1
        if self.losses[job.key] <= self.retries:
            message = f"{how}; tried again ({self.losses[job.key]} of {self.retries})."
            self.report({"event": "warning", "title": job.key, "message": message})
            self.waiting[job.key] = job
            return
        reason = f"{how}, {self.losses[job.key]} times in all."
        if not self.keep_going:
            raise WorkersLost(f"{job.key}: {reason}")
        self.finish(job, Failed(reason))

    def is_last_try(self, job: Job) -> bool:
        """Return whether a job is given up if it loses its worker once more; such a job is better run alone."""
        return 0 < self.retries <= self.losses[job.key]
