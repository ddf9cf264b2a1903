"""A comparison on nets that train in a blink, made in a thread that stops where a test wants to look."""

import threading
from pathlib import Path

from browser.report_runs import WORDS
from expunge import config
from expunge.bench.compare import compare
from expunge.bench.request import Request, Row

ROWS = (
    Row("salun", {"name": "salun", "epochs": 1}),
    Row("ssd", {"name": "ssd"}),
    Row("finetune", {"name": "finetune", "epochs": 1}),
)
LITTLE = ("evaluate.seeds=2", "evaluate.retrained=4", "train.epochs=1")


class Stopped(Exception):
    """The driver was told to end in the middle, as if it had been killed."""


class Slow:
    """Makes a comparison, and stops before the jobs that the test has not let through yet.

    Args:
        out: folder of the runs.
        words: changes to the settings.
        fraction: of the training examples that is to be forgotten.
    """

    def __init__(self, out: Path, *words: str, fraction: float = 0.2):
        tree = config.read(None, [*WORDS, *LITTLE, *words, f"out={out}"])
        self.requests = [Request("Digits", {**tree, "forget": {"name": "random", "fraction": fraction}}, ROWS)]
        self.out, self.error = out, None
        self.records, self.folder = [], None
        self._row, self._moved = "", threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._stopped = False

    def start(self, upto: str = "") -> None:
        """Begin, and go on up to the end of a row."""
        self._row = upto
        self._thread.start()

    def let(self, row: str) -> None:
        """Go on up to the end of a row; to the end of all if empty."""
        with self._moved:
            self._row = row
            self._moved.notify_all()

    def stop(self) -> None:
        """End it where it stands, as a Ctrl-C does."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()
        if self._thread.is_alive():
            self._thread.join(60)

    def end(self) -> None:
        """Let it go on to its end."""
        self.let("")
        self._thread.join(120)
        if self.error is not None:
            raise self.error

    def compare(self, hear):
        """Make it here and now, without stopping."""
        return compare(self.requests, hear, "expunge evaluate digits.yaml <b>")

    def _work(self) -> None:
        try:
            self.records, self.folder = self.compare(self._hear)
        except Stopped:
            return
        except Exception as error:  # shown by the test's thread
            self.error = error

    def _hear(self, event: dict) -> None:
        if event["event"] != "done" or not event["key"].startswith("inspected/"):
            return
        row, last = event["key"].split("/")[2], event["key"].endswith(f"/{self.requests[0].tree['evaluate']['seeds'] - 1}")
        with self._moved:
            self._moved.wait_for(lambda: self._stopped or not (last and self._row == row), 120)
            if self._stopped:
                raise Stopped
