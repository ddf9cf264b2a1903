"""Builds the pages of comparisons in progress: in a process of its own, one at a time, for at most a tenth of a processor's time."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from expunge.report.watching.comparisons import Comparison

PAUSE = 5.0
"""Seconds between two pages at least."""
SHARE = 0.1
"""Of one processor's time: the most that building may take."""


@dataclass
class Page:
    """The latest page of a comparison.

    Attributes:
        folder: that holds ``report.html`` and ``record.json``.
        number: time of its making in milliseconds; 0 before the first.
        about: what it was made of.
        problem: why the last attempt failed; empty if it did not.
    """

    folder: Path
    number: int = 0
    about: Any = None
    problem: str = ""


@dataclass
class _Work:
    """A page that is being made; ``number`` is what it will have, ``spent`` what processes before it took."""

    page: Page
    number: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    start: float
    spent: float


class Builder:
    """Keeps the pages of a folder's comparisons; see `step`.

    Args:
        folder: of the runs.
        target: where pages are made; not among the runs.
    """

    def __init__(self, folder: Path, target: Path):
        self.folder, self.target = folder.absolute(), target
        self.pages: dict[str, Page] = {}
        self._work: _Work | None = None
        self._rest_until = 0.0

    def step(self, found: Sequence[Comparison]) -> None:
        """See whether a page is made, and begin the next one if something has finished and it is time."""
        if self._work is not None:
            self._collect(self._work)
        if self._work is None and time.monotonic() >= self._rest_until:
            for one in found:
                if one.shown and self._page(one).about != one.shown:
                    return self._begin(one)

    def close(self) -> None:
        """End what is being made."""
        if self._work is not None:
            self._work.process.kill()
            self._work.process.wait()
            self._work.errors.close()
            self._work = None

    def _page(self, one: Comparison) -> Page:
        return self.pages.setdefault(one.identity, Page(self.target / one.identity))

    def _begin(self, one: Comparison) -> None:
        page = self._page(one)
        page.folder.mkdir(parents=True, exist_ok=True)
        page.about, number = one.shown, int(1000 * time.time())
        directory = Path(one.plan["directory"])
        command = [sys.executable, "-P", "-m", "expunge.bench.growing", str(self.folder), one.identity, str(page.folder), str(number)]
        errors = open(page.folder / "errors.txt", "w+b")
        process = subprocess.Popen(
            command,
            cwd=directory if directory.is_dir() else None,  # paths in a configuration may be relative
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        self._work = _Work(page, number, process, errors, time.monotonic(), _spent())

    def _collect(self, work: _Work) -> None:
        status = work.process.poll()
        if status is None:
            return
        now = time.monotonic()
        taken = _spent() - work.spent or now - work.start
        self._rest_until = now + max(PAUSE, (1 / SHARE - 1) * taken)
        work.errors.seek(0)
        told = work.errors.read().decode(errors="replace").strip().splitlines()
        work.errors.close()
        work.page.problem = "" if status == 0 else (told[-1] if told else f"its process ended with status {status}")
        work.page.number = work.number if status == 0 else work.page.number
        self._work = None


def _spent() -> float:
    """Return the processor seconds of all processes that have ended; 0 where the system does not count them."""
    times = os.times()
    return times.children_user + times.children_system
