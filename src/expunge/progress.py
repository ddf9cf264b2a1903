"""How far a command is: a live display on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from typing import Any


class Progress:
    """Hears the events of runs and shows them. Use as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, console=self.console, transient=True, disable=not self.live)
        self.lock = threading.Lock()
        self.tasks: dict[str, Any] = {}
        self.total, self.done = 0, 0
        self.all: Any = None
        self.start = self.said = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def report(self, event: dict[str, Any]) -> None:
        """Show one event; may be called from several threads."""
        with self.lock:
            getattr(self, f"_on_{event['event']}", lambda event: None)(event)

    def _on_plan(self, event: dict[str, Any]) -> None:
        self.total += len(event["jobs"])
        if self.all is None:
            self.all = self.bars.add_task("all runs", total=self.total)
        self.bars.update(self.all, total=self.total)

    def _on_warning(self, event: dict[str, Any]) -> None:
        self.console.print(f"warning: {event.get('title', '')}: {event.get('message', event)}", markup=False)

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self.console.print(f"{event['title']} is being made by {event['for']}; it is taken from there.", markup=False)

    def _on_start(self, event: dict[str, Any]) -> None:
        self.tasks[event["title"]] = self.bars.add_task(f"  {event['title']}", total=None)

    def _on_epoch(self, event: dict[str, Any]) -> None:
        task = self.tasks.get(event["title"])
        if task is not None:
            self.bars.update(task, total=event["epochs"], completed=event["epoch"])

    def _on_end(self, event: dict[str, Any]) -> None:
        task = self.tasks.pop(event["title"], None)
        if task is not None:
            self.bars.remove_task(task)

    def _on_transfer(self, event: dict[str, Any]) -> None:
        title, done, size = event["title"], event["done"] >> 20, event["size"] >> 20
        if title not in self.tasks:
            self.tasks[title] = self.bars.add_task(f"  {title}, MB", total=size)
            if not self.live:
                print(f"{title}, {size} MB", file=sys.stderr, flush=True)
        self.bars.update(self.tasks[title], completed=done)
        if event["done"] >= event["size"]:
            self._on_end(event)

    def _on_done(self, event: dict[str, Any]) -> None:
        self.done += 1
        if self.all is not None:
            self.bars.update(self.all, completed=self.done)
        now = time.monotonic()
        if not self.live and (now - self.said > 10 or self.done == self.total):
            self.said = now
            print(f"[{now - self.start:4.0f} s] {self.done} of {self.total} runs done", file=sys.stderr, flush=True)


class Silent:
    """Hears the events of runs and keeps them to itself: for all ranks but the first that work on one model."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def report(self, event: dict[str, Any]) -> None:
        """Do nothing."""
