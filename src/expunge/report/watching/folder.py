"""The runs of a folder while they are made: what each does now."""

import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.errors import BadInput
from expunge.report.figures import epochs

SILENT = 120.0
"""Seconds without any news after which a run that is not finished is not called running."""
SHOWN = 300
"""Runs on the page, the latest first; the counts are over all."""


@dataclass(frozen=True)
class Progress:
    """What one run folder says.

    Attributes:
        name: of the folder.
        title: of the run, as far as it is known.
        state: ``running``, ``silent`` (not finished and no news for two minutes), ``ok`` or what its record says, such as ``diverged``.
        epoch: epochs that it has reported, over all phases.
        phase: name of the phase and how far it is.
        seconds: since it began, or that it took.
        losses: name -> ``[[epoch, value]]``.
        changed: when it last wrote, in seconds since 1970.
    """

    name: str
    title: str
    state: str
    epoch: int
    phase: str
    seconds: float
    losses: dict[str, list[list[float]]]
    changed: float


def look(folder: Path) -> dict[str, Any]:
    """Return what there is in a folder of runs, as plain values: ``{folder, counts: {state: n}, runs: [...], results: [names]}``."""
    found = [progress for path in folder.iterdir() if (path / "events.jsonl").is_file() and (progress := _look_at(path))]
    found.sort(key=lambda run: (run.state != "running", -run.changed))
    counts: dict[str, int] = {}
    for run in found:
        counts[run.state] = counts.get(run.state, 0) + 1
    found_results = sorted(results(folder), key=lambda path: path.stat().st_mtime, reverse=True)
    return {
        "folder": folder.name,
        "counts": counts,
        "runs": [asdict(run) for run in found[:SHOWN]],
        "results": [path.parent.name for path in found_results],
    }


def results(folder: Path) -> list[Path]:
    """Return the pages of finished results."""
    return [path for kind in ("compare", "bench") for path in folder.glob(f"{kind}-*/report.html")]


def _look_at(folder: Path) -> Progress | None:
    try:
        log = (folder / "events.jsonl").stat()
        done = (folder / "record.json").stat().st_mtime if (folder / "record.json").is_file() else None
        run = _read(folder, log.st_mtime_ns, log.st_size, done)
    except (OSError, BadInput):
        return None
    if run.state == "running" and time.time() - run.changed > SILENT:
        return Progress(**{**asdict(run), "state": "silent"})
    return run


@lru_cache(maxsize=4096)
def _read(folder: Path, changed_ns: int, size: int, done: float | None) -> Progress:
    """Return what a folder says; read again when its log or its record is another."""
    start: dict[str, Any] = {}
    last: dict[str, Any] = {}
    log = list(epochs.events(folder / "events.jsonl"))
    for event in log:
        start = event if event.get("event") == "start" else start
        last = event if event.get("event") == "epoch" else last
    curves = epochs.curves(log)
    record = runs.read_json(folder / "record.json") if done is not None else {}
    identity = start.get("identity") or {}
    method = (identity.get("method") or {}).get("name", "")
    points = [points for series in curves["series"].values() for points in series.values()]
    changed = done or changed_ns / 1e9
    return Progress(
        name=folder.name,
        title=str(record.get("title") or f"{identity.get('stage', folder.name.partition('-')[0])} {method}".strip()),
        state=str(record.get("status", "running")),
        epoch=max((int(held[-1][0]) for held in points if held), default=0),
        phase=f"{last.get('name', '')}: {last['epoch']} of {last['epochs']}" if {"epoch", "epochs"} <= last.keys() else "",
        seconds=round(float((record.get("cost") or {}).get("seconds") or max(0.0, changed - float(start.get("time", changed)))), 1),
        losses=curves["series"].get("losses", {}),
        changed=changed,
    )
