"""A command and its trackers: what it reports goes to its display and to a courier for each tracker. Or finished runs are sent later."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.tracking import subjects
from expunge.tracking.carrying import Courier, deliver
from expunge.tracking.tracker import Tracker

PATIENCE = 60.0
"""Seconds that a command waits for its trackers when everything else is done."""
_HURRY = 3.0
"""The same where the command ends with an error or is interrupted."""


class Followed:
    """A display whose events trackers hear too. Use as a context manager, more than once if need be.

    Args:
        shown: the display: a context manager with ``report``.
        trackers: where runs go.
        patience: seconds to wait at the end.

    Raises:
        BadInput: the package of a tracker is not installed.
    """

    def __init__(self, shown: Any, trackers: Sequence[Tracker], patience: float = PATIENCE):
        for tracker in trackers:
            tracker.check()
        self.shown, self.trackers, self.patience = shown, trackers, patience
        self.couriers: list[Courier] = []

    def __enter__(self) -> "Followed":
        self.shown.__enter__()
        self.couriers = [Courier(tracker, self._voice(tracker)) for tracker in self.trackers]
        for courier in self.couriers:
            courier.start()
        return self

    def __exit__(self, *error: object) -> None:
        for courier in self.couriers:
            courier.finish()
        until = time.monotonic() + (self.patience if error[:1] in ((), (None,)) else min(self.patience, _HURRY))
        for courier in self.couriers:
            courier.join(max(0.0, until - time.monotonic()))
            if courier.is_alive():
                courier.say(
                    f"has not answered for {self.patience:g} s; `expunge track FOLDER track={courier.tracker.name}` sends the rest."
                )
        self.shown.__exit__(*error)

    def report(self, event: dict[str, Any]) -> None:
        """Pass an event on; may be called from several threads."""
        self.shown.report(event)
        for courier in self.couriers:
            courier.hear(event)

    def _voice(self, tracker: Tracker) -> Callable[[str], None]:
        return lambda message: self.shown.report({"event": "warning", "title": f"track={tracker.name}", "message": message})


def send(folders: Iterable[Path], trackers: Sequence[Tracker]) -> list[str]:
    """Send finished runs and comparisons to trackers that do not have them yet, and return what to print.

    Args:
        folders: run folders, comparison folders, with the runs that they rest on, or folders that hold such.
        trackers: where they go.

    Raises:
        BadInput: no tracker, no runs in a folder, a package is missing, or a tracker cannot be reached.
    """
    if not trackers:
        raise BadInput("track", "there is no tracker.", "For example track=mlflow; `expunge list trackers` shows all.")
    found = [run for folder in folders for run in subjects.runs_in(folder)]
    every = list(dict.fromkeys(run for one in found for run in [*subjects.members_of(one), one]))
    every.sort(key=lambda folder: subjects.stage_of(folder) in subjects.GROUPS)
    lines = []
    for tracker in trackers:
        tracker.check()
        try:
            connection = tracker.connect()
            sent = sum(deliver(connection, folder) for folder in every)
            connection.close()
        except BadInput:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise BadInput(f"track={tracker.name}", f"{type(error).__name__}: {reason}", "Is the server up? Is there room?") from error
        unfinished = sum(not subjects.is_finished(folder) for folder in every)
        there = len(every) - sent - unfinished
        lines.append(f"{tracker.name}: {sent} sent, {there} there already, {unfinished} not finished")
    return lines
