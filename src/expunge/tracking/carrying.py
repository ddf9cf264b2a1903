"""What carries runs from their folders to one tracker: in a thread of its own, so that no run waits for a tracker or ends with it."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.tracking import subjects
from expunge.tracking.reading import Reader, Tail
from expunge.tracking.tracker import Connection, Session, Tracker

Say = Callable[[str], None]


class Delivery:
    """One run on its way to one tracker."""

    def __init__(self, connection: Connection, folder: Path, title: str):
        subject = subjects.subject_of(folder, title)
        self.folder, self.tail = folder, Tail(folder / "events.jsonl")
        self.session: Session
        self.session, steps, epochs = connection.open(subject)
        self.reader = Reader(steps, epochs)

    def go_on(self) -> None:
        """Send what is new in the run's events."""
        points, histograms = self.reader.read(self.tail.read())
        if points or histograms:
            self.session.write(points, histograms, (self.reader.steps, self.reader.epochs))

    def finish(self) -> None:
        """Send the rest and the outcome."""
        self.go_on()
        self.session.end(subjects.outcome_of(self.folder))


def deliver(connection: Connection, folder: Path, title: str = "") -> bool:
    """Send a whole run or comparison; return False if the tracker has it already, or if it is not finished."""
    if connection.has(folder.name) or not subjects.is_finished(folder):
        return False
    Delivery(connection, folder, title).finish()
    return True


class Courier(threading.Thread):
    """Hears the events of a command and looks into the folders that they name.

    The first error ends it: it is said, and whatever comes afterwards is passed over.

    Args:
        tracker: where runs go.
        say: hears what went wrong, once.
    """

    def __init__(self, tracker: Tracker, say: Say):
        super().__init__(name=f"track {tracker.name}", daemon=True)
        self.tracker, self.say = tracker, say
        self.notices: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.open: dict[str, Delivery] = {}
        self.titles: dict[str, set[str]] = {}
        self.failed = False

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of an event; it costs an entry in a queue."""
        if not self.failed and event["event"] in ("start", "found", "end", "steps", "epoch", "result"):
            told: dict[str, Any] = {key: event[key] for key in ("event", "title", "folder") if key in event}
            self.notices.put(told)

    def finish(self) -> None:
        """Let the thread end after what it has heard."""
        self.notices.put(None)

    def run(self) -> None:
        """Connect, and carry until told to stop."""
        try:
            connection = self.tracker.connect()
            while (event := self.notices.get()) is not None:
                self._carry(connection, event)
            connection.close()
        except Exception as error:  # whatever a tracker raises is its own affair: the run goes on
            self.failed = True
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:200]}"
            self.say(f"{reason} Nothing more is sent there; `expunge track FOLDER track={self.tracker.name}` sends what is missing.")

    def _carry(self, connection: Connection, event: dict[str, Any]) -> None:
        kind, folder = event["event"], event.get("folder", "")
        if kind == "start" and Path(folder).is_dir():  # it is not where another machine makes the run in a cache of its own
            self.titles.setdefault(event["title"], set()).add(folder)
        elif kind in ("steps", "epoch"):
            for place in self.titles.get(event.get("title", ""), ()):
                self._delivery(connection, place, event["title"]).go_on()
        elif kind == "end":
            self._end(connection, folder, event.get("title", ""))
        elif subjects.stage_of(Path(folder)):
            deliver(connection, Path(folder), event.get("title", ""))

    def _delivery(self, connection: Connection, folder: str, title: str) -> Delivery:
        if folder not in self.open:
            self.open[folder] = Delivery(connection, Path(folder), title)
        return self.open[folder]

    def _end(self, connection: Connection, folder: str, title: str) -> None:
        self.titles.get(title, set()).discard(folder)
        if not subjects.stage_of(Path(folder)) or not subjects.is_finished(Path(folder)):
            return
        if folder not in self.open and connection.has(Path(folder).name):
            return
        self._delivery(connection, folder, title).finish()
        del self.open[folder]
