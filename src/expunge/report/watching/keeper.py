"""What there is to see in a folder of runs, looked at once for all who look on."""

import contextlib
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from expunge.report.watching import comparisons
from expunge.report.watching.builder import Builder
from expunge.report.watching.folder import look, results

EVERY = 1.0
"""Seconds between two looks at the folder."""
Plain = dict[str, Any]


class Keeper:
    """Looks at a folder again and again, and has pages built of its comparisons.

    Args:
        folder: of the runs.
    """

    def __init__(self, folder: Path):
        self.folder, self.open = folder, True
        self._target = tempfile.TemporaryDirectory(prefix="expunge-watch-")
        self._builder = Builder(folder, Path(self._target.name))
        self._before: dict[str, comparisons.Comparison] = {}
        self._finished: dict[str, Plain] = {}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._keep, name="watch", daemon=True)
        self.seen: Plain = {}
        self.look()

    def start(self) -> None:
        """Begin to look again and again."""
        self._thread.start()

    def look(self) -> None:
        """Look once, and wake those who wait for news."""
        found = comparisons.find(self.folder)
        self._builder.step(found)
        here = {one.identity: one for one in found}
        for identity, one in self._before.items():
            if identity not in here and (name := comparisons.result_of(one, results(self.folder))):
                self._finished[identity] = {**self._described(one), "state": "done", "result": name}
        gone = [one for identity, one in self._finished.items() if identity not in here]
        self._before = here
        seen = {**look(self.folder), "comparisons": [*map(self._described, found), *gone]}
        with self._news:
            if seen != self.seen:
                self.seen = seen
                self._news.notify_all()

    def wait(self, before: Plain | None, seconds: float) -> Plain:
        """Return what there is to see, as soon as that is something else than before, or when some seconds have passed."""
        with self._news:
            self._news.wait_for(lambda: self.seen is not before or not self.open, seconds)
            return self.seen

    def page(self, identity: str) -> Path | None:
        """Return the page of a comparison in progress; None before the first."""
        page = self._builder.pages.get(identity)
        return page.folder / "report.html" if page is not None and page.number else None

    def records(self, identity: str) -> list[Plain]:
        """Return the records that the page of a comparison shows; none before the first."""
        page = self._builder.pages.get(identity)
        if page is None or not page.number:
            return []
        return json.loads((page.folder / "record.json").read_text(encoding="utf-8"))

    def close(self) -> None:
        """End looking, and take the pages away."""
        with self._news:
            self.open = False
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._builder.close()
        self._target.cleanup()

    def _keep(self) -> None:
        while self.open:
            with contextlib.suppress(OSError):  # the folder may be gone for a moment, or for good
                self.look()
            with self._news:
                self._news.wait_for(lambda: not self.open, EVERY)

    def _described(self, one: comparisons.Comparison) -> Plain:
        page = self._builder.pages.get(one.identity)
        made = {"page": page.number, "problem": page.problem} if page is not None else {"page": 0, "problem": ""}
        return {**comparisons.describe(one), **made}
