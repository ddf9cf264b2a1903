"""When margins were declared: before any result of a method was there, or after.

Every evaluation, with margins or without, leaves a note for each method in ``OUT/declared`` before its first run, and marks it once its
record is made. The first note about the same margins stays. One machine's clock is believed, and whoever may write the folder can
write anything there: this finds margins that were chosen late by accident or in haste, not those of somebody who hides it.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.audits import margins
from expunge.bench.request import Request
from expunge.config import fingerprint
from expunge.pools import locks, remote, stages
from expunge.pools.workplace import Workplace

FOLDER = "declared"
Plain = dict[str, Any]


def note(requests: Sequence[Request]) -> None:
    """Write down the margins of every row, and what was there of its method by now, unless that was done before.

    Args:
        requests: about to be evaluated; their data and splits can be read.
    """
    works = [request.workplace(row) for request in requests for row in request.rows]
    for folder in {work.out / FOLDER for work in works}:
        remote.pull(folder, sign=None)
    for work in works:
        path = _path(work)
        with locks.hold(path.parent, wait=True):
            if not path.is_file():
                runs.write_json(path, _declaration(work, path))
                remote.push_file(path)


def mark(work: Workplace) -> None:
    """Note that results of a row are there to be seen; the first time stays.

    Who only looks on, where nothing can be written, notes nothing: whoever makes the results does.
    """
    path = _path(work)
    if not path.is_file() or runs.read_json(path)["seen"] or not os.access(path.parent, os.W_OK):
        return
    with locks.hold(path.parent, wait=True):
        held = runs.read_json(path)
        if held["seen"]:
            return  # another process was faster
        runs.write_json(path, {**held, "seen": _now()})
        remote.push_file(path, anew=True)


def found(work: Workplace) -> Plain | None:
    """Return when the margins of a row were declared and what was there then; None without margins, or where nobody noted it.

    Returns:
        ``time``: UTC; ``models``: how many of the row's own models were ``there``, and how many it takes (``of``); ``before``: times and
        margins of the evaluations of the same method on the same request whose results were there.
    """
    path = _path(work)
    if not work.experiment.evaluate.margins or not path.is_file():
        return None
    held = runs.read_json(path)
    return {key: held[key] for key in ("time", "models", "before")}


def _declaration(work: Workplace, path: Path) -> Plain:
    experiment, declared = work.experiment, margins.resolve(work.experiment.evaluate.margins)
    numbers = range(experiment.evaluate.seeds)
    made = [stages.made(work, "unlearned", number) for number in numbers] if declared else []
    before = [{"time": other["seen"], "margins": other["margins"]} for other in _others(path) if other["margins"] != declared]
    return {
        "time": _now(),
        "margins": declared,
        "method": experiment.method.tree(),
        "addons": [addon.tree() for addon in experiment.addons],
        "forget": experiment.forget.tree(),
        "models": {"there": sum(run is not None and run.status == "ok" for run in made), "of": len(numbers)},
        "before": sorted(before, key=lambda other: str(other["time"])),
        "seen": None,
    }


def _others(path: Path) -> Iterator[Plain]:
    """Yield the notes about the same method and request, with whichever settings and seeds, whose results were there."""
    for other in path.parent.glob(f"{path.name.partition('-')[0]}-*.json"):
        held = runs.read_json(other)
        if held["seen"]:
            yield held


def _path(work: Workplace) -> Path:
    """Return where a row's margins are noted: what is compared, then the row's settings with its margins."""
    experiment = work.experiment
    compared = {
        "data": work.plain_data.fingerprint,
        "model": {key: value for key, value in experiment.model.tree().items() if key != "weights"},
        "train": experiment.train.tree(),
        "forget": experiment.forget.tree(),
        "method": experiment.method.name,
        "addons": sorted(addon.name for addon in experiment.addons),
    }
    row = [experiment.method.tree(), [addon.tree() for addon in experiment.addons], margins.resolve(experiment.evaluate.margins)]
    return work.out / FOLDER / f"{fingerprint(compared)}-{fingerprint(row)}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
