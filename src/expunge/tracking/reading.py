"""The events of a run -> points of series. An event log may hold several attempts at one run; each step is told once.

An attempt that was killed and made again, or that went on from a checkpoint, repeats what was there: the same run gives the same values, so
that the first of them are kept.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.runs import parse_event
from expunge.tracking.tracker import Histogram, Point

_UNFIT = re.compile(r"[^A-Za-z0-9_\-./]+")


class Reader:
    """What has been told of one run.

    Args:
        steps: the last step that was told before.
        epochs: the last epoch that was told before.
    """

    def __init__(self, steps: int = 0, epochs: int = 0):
        self.steps, self.epochs = steps, epochs
        self._steps_of: dict[int, int] = {}
        self._epochs_of: dict[int, int] = {}
        self._held: list[tuple[str, float]] = []
        self._planned: set[int] = set()
        self._weighed = epochs if epochs else -1

    def read(self, events: Iterable[Mapping[str, Any]]) -> tuple[list[Point], list[Histogram]]:
        """Return what is new in these events, in their order."""
        points: list[Point] = []
        histograms: list[Histogram] = []
        for event in events:
            if event.get("event") == "weights":
                histograms += self._weights(event)
            else:
                points += getattr(self, f"_on_{event.get('event')}", lambda event: ())(event)
        return points, histograms

    def _on_start(self, event: Mapping[str, Any]) -> Iterable[Point]:
        self._steps_of, self._epochs_of, self._held = {}, {}, []
        return ()

    def _on_resumed(self, event: Mapping[str, Any]) -> Iterable[Point]:
        self._steps_of[event["phase"]], self._epochs_of[event["phase"]] = event["steps"], event["epoch"]
        return ()

    def _on_phase(self, event: Mapping[str, Any]) -> Iterator[Point]:
        at = _before(self._steps_of, event["phase"])
        if at >= self.steps and event["phase"] not in self._planned:
            self._planned.add(event["phase"])
            yield Point("phase/number", event["phase"], at, event["time"])
            yield Point("phase/mask_density", event["mask_density"], at, event["time"])

    def _on_steps(self, event: Mapping[str, Any]) -> list[Point]:
        before = _before(self._steps_of, event["phase"])
        found = [
            Point(series(name), value, before + step, event["time"])
            for name, values in event["values"].items()
            for step, value in zip(event["steps"], values, strict=True)
            if is_number(value) and before + step > self.steps
        ]
        self._steps_of[event["phase"]] = event["steps"][-1]
        self.steps = max(self.steps, before + event["steps"][-1])
        return sorted(found, key=lambda point: point.step)

    def _on_epoch(self, event: Mapping[str, Any]) -> list[Point]:
        phase, time = event["phase"], event["time"]
        at = _before(self._epochs_of, phase) + event["epoch"]
        self._epochs_of[phase] = event["epoch"]
        if "steps" in event:
            self._steps_of[phase] = event["steps"]
        held, self._held = self._held, []
        if at <= self.epochs:
            return []
        self.epochs = at
        values = {f"loss/{label}": value for label, value in event["losses"].items()} | event.get("values", {})
        values |= {name: event[name] for name in ("lr", "passes") if name in event} | dict(held)
        return [Point(f"epoch_{series(name)}", value, at, time) for name, value in values.items() if is_number(value)]

    def _on_constraint(self, event: Mapping[str, Any]) -> Iterable[Point]:
        """Hold what is said in an epoch until the epoch is over."""
        self._held += [(f"constraint/{name}", event[name]) for name in ("bound", "multiplier", "penalty") if name in event]
        return ()

    def _weights(self, event: Mapping[str, Any]) -> list[Histogram]:
        at = _before(self._epochs_of, event["phase"]) + event["epoch"]
        if at <= self._weighed:
            return []
        self._weighed = at
        return [Histogram(f"weights/{series(name)}", **one, step=at, time=event["time"]) for name, one in event["histograms"].items()]


def series(name: str) -> str:
    """Return a name with the signs that every tracker allows: letters, digits, ``_ - . /`` and spaces."""
    return " ".join(_UNFIT.sub(" ", name).split())


def _before(counts: Mapping[int, int], phase: int) -> int:
    return sum(count for number, count in counts.items() if number < phase)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


class Tail:
    """New lines of an event log since the last look; an unfinished last line waits until it is whole."""

    def __init__(self, path: Path):
        self.path, self._offset = path, 0

    def read(self) -> list[dict[str, Any]]:
        """Return the events that have come; none while there is no file. A damaged line is passed over."""
        try:
            with open(self.path, "rb") as log:
                log.seek(self._offset)
                block = log.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := parse_event(line)) is not None and "time" in event]
