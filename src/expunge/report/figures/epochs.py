"""What each run reported while it unlearned, as curves over its epochs: whatever numbers its events hold."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expunge import runs
from expunge.errors import BadInput
from expunge.report.figures.models import Models, short

POINTS = 200
"""Most points of a curve; of longer ones every so many is kept."""
SEEDS = 5
"""Most runs of a row that are drawn."""
PLACES = ("phase", "epoch", "epochs", "steps", "time", "seed")
"""Numbers of an event that say where it stands, not what was measured."""


def of(models: Models) -> dict[str, Any]:
    """Return the curves of every row but the retrained ones.

    Returns:
        ``{rows: {row: [run]}, costs}``. A run is ``{seed, phases: [[first epoch, name]], edits: [[epoch, name]], series: {group: {name:
        [[epoch, value]]}}}``; a group is the key of the event that held the numbers, such as ``losses``. Epochs are counted over all
        phases. ``costs`` holds for each row and seed what the cost meter counted.
    """
    rows = {row: [run(folder, seed) for seed, folder in list(models.folders[row].items())[:SEEDS]] for row in models.methods}
    return {"rows": {row: held for row, held in rows.items() if any(one["series"] for one in held)}, "costs": costs(models)}


def run(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Return the curves of one run, of the last attempt if it was begun more than once."""
    return {"seed": seed, **curves(events(folder / "events.jsonl"))}


def curves(log: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``phases``, ``edits`` and ``series`` of the last attempt in a log; see `of`."""
    series: dict[str, dict[str, list[list[float]]]] = {}
    phases: list[list[Any]] = []
    edits: list[list[Any]] = []
    at, start = 0, None
    for event in log:
        kind = event.get("event")
        if kind == "start":
            series, phases, edits, at, start = {}, [], [], 0, event.get("time")
        elif kind == "edit":
            edits.append([at, str(event.get("name", ""))])
        elif kind == "epoch":
            at += 1
            name = str(event.get("name", event.get("phase", "")))
            if not phases or phases[-1][1] != name or event.get("epoch") == 1:
                phases.append([at, name])
            for group, label, value in _numbers(event):
                series.setdefault(group, {}).setdefault(label, []).append([at, value])
            if isinstance(start, int | float) and isinstance(event.get("time"), int | float):
                series.setdefault("seconds", {}).setdefault("since the start", []).append([at, event["time"] - start])
    thin = {group: {name: _thinned(points) for name, points in held.items()} for group, held in series.items()}
    return {"phases": phases, "edits": edits, "series": thin}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    if len(points) > POINTS:
        points = [points[place] for place in np.unique(np.linspace(0, len(points) - 1, POINTS).astype(int))]
    return [[at, short(float(value), 5)] for at, value in points]


def _numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield (group, name, value) of every number that an event holds; mappings inside mappings get names joined by a colon."""
    for key, value in event.items():
        if key in PLACES:
            continue
        for name, number in _leaves(value, ""):
            yield key, name or key.replace("_", " "), number


def _leaves(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}: {key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; lines that a killed process left unfinished are passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        event = runs.parse_event(line)
        if event is not None:
            yield event


def costs(models: Models) -> dict[str, list[dict[str, Any]]]:
    """Return what the cost meter of each model counted, with the seed; row by row, the references too."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in models.rows:
        for seed, folder in models.folders[row].items():
            try:
                cost = runs.read_json(folder / "record.json").get("cost")
            except BadInput:
                continue
            if cost:
                numbers = {key: short(value, 5) for key, value in cost.items() if isinstance(value, int | float)}
                found.setdefault(row, []).append({"seed": seed, **numbers})
    return found
