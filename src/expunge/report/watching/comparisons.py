"""The comparisons that drivers have written down in a folder: which of their rows are whole, and whether anybody still works on them."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.bench.underway import ENDED, FOLDER, FORMAT, PLAN, jobs_in
from expunge.errors import BadInput
from expunge.pools import locks

REFERENCES = ("original", "retrained")
LATEST = 20
"""Results among which that of a comparison is looked for."""
Plain = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request of a comparison in progress.

    Attributes:
        number: its position, which is in the keys of its jobs.
        plan: what its driver wrote down; see `expunge.bench.underway`.
        ended: key of a job -> its folder, or why it gave none.
    """

    number: int
    plan: Plain
    ended: Mapping[str, Plain]

    @property
    def labels(self) -> list[str]:
        """Return the names of its rows."""
        return [row["label"] for row in self.plan["rows"]]

    @property
    def whole(self) -> list[str]:
        """Return the names of the rows whose seeds have all ended and been looked into."""
        return [label for label in self.labels if self._has_ended(label)]

    @property
    def has_references(self) -> bool:
        """Return whether all originals and retrained models are there, without which nothing can be judged."""
        return all(map(self._has_ended, REFERENCES)) and not self.lost

    @property
    def lost(self) -> str:
        """Return why nothing of the request can be judged; empty if it can, or might still."""
        keys = [key for label in REFERENCES for key in self.plan["runs"][label]]
        return next((f"{key}: {self.ended[key]['failed']}" for key in keys if "failed" in self.ended.get(key, {})), "")

    def counted(self, label: str) -> tuple[int, int]:
        """Return how many runs of a row have ended, of how many."""
        keys = self.plan["runs"][label]
        return sum(key in self.ended for key in keys), len(keys)

    def _has_ended(self, label: str) -> bool:
        return all(key in self.ended for key in [*self.plan["runs"][label], *self.plan["looks"][label]])


@dataclass(frozen=True)
class Comparison:
    """A comparison that a driver has written down.

    Attributes:
        identity: what its drivers share.
        state: ``running``, or ``stopped``: nobody works on it.
        plan: what its latest driver wrote down.
        ended: key of a job -> its folder, or why it gave none.
        begun: when its first driver began, in seconds since 1970.
    """

    identity: str
    state: str
    plan: Plain
    ended: Mapping[str, Plain]
    begun: float

    @cached_property
    def asked(self) -> list[Asked]:
        """Its requests."""
        return [Asked(number, plan, self.ended) for number, plan in enumerate(self.plan.get("requests", ()))]

    @property
    def rows(self) -> tuple[int, int]:
        """Return how many rows are whole, of how many."""
        return sum(len(one.whole) for one in self.asked), sum(len(one.labels) for one in self.asked)

    @property
    def jobs(self) -> tuple[int, int]:
        """Return how many jobs have ended, of how many."""
        keys = jobs_in(self.plan) if self.asked else set()
        return len(keys & self.ended.keys()), len(keys)

    @property
    def shown(self) -> dict[str, list[str]]:
        """Return what a report can show: number of a request -> its whole rows; a request without retrained models or rows has none."""
        return {str(one.number): one.whole for one in self.asked if one.has_references and one.whole}


def find(folder: Path) -> list[Comparison]:
    """Return the comparisons of a folder, those in progress first, then the latest."""
    held: dict[str, list[_Kept]] = {}
    for path in sorted((folder / FOLDER).glob(f"*-*/{PLAN}")):
        kept = _kept(path)
        if kept is not None:
            held.setdefault(path.parent.name.partition("-")[0], []).append(kept)
    found = [_joined(identity, plans) for identity, plans in held.items()]
    return sorted(found, key=lambda one: (one.state != "running", -one.begun))


@dataclass(frozen=True)
class _Kept:
    """The plan of one driver; ``alive`` is whether he is."""

    plan: Plain
    ended: Mapping[str, Plain]
    alive: bool
    begun: float


def _joined(identity: str, plans: list[_Kept]) -> Comparison:
    """Return one comparison of the plans of its drivers; what failed for a dead one may be tried again."""
    plans = sorted(plans, key=lambda kept: (kept.alive, kept.begun))
    last = plans[-1]
    ended: dict[str, Plain] = {}
    for kept in plans:
        ended |= {key: how for key, how in kept.ended.items() if kept.alive or not last.alive or "folder" in how}
    return Comparison(identity, "running" if last.alive else "stopped", last.plan, ended, min(kept.begun for kept in plans))


def _kept(path: Path) -> _Kept | None:
    try:
        plan = _read(path, path.stat().st_mtime_ns)
        log = path.with_name(ENDED)
        ended = _ended(log, log.stat().st_size) if log.is_file() else {}
        begun = path.stat().st_mtime
    except (OSError, BadInput):
        return None
    if plan.get("format") != FORMAT:
        return None
    return _Kept(plan, ended, locks.is_held(path.parent) is True, begun)


@lru_cache(maxsize=256)
def _read(path: Path, changed_ns: int) -> Plain:
    return runs.read_json(path)


@lru_cache(maxsize=32)
def _ended(path: Path, size: int) -> Mapping[str, Plain]:
    """Return key of a job -> its folder, or why it gave none; read again when the log has grown."""
    events = filter(None, map(runs.parse_event, path.read_bytes().splitlines()))
    return {str(event["key"]): event for event in events if "key" in event and ("folder" in event or "failed" in event)}


def describe(one: Comparison) -> Plain:
    """Return a comparison as plain values for a page."""
    return {
        "id": one.identity,
        "state": one.state,
        "command": str(one.plan.get("command", "")),
        "rows": list(one.rows),
        "jobs": list(one.jobs),
        "result": "",
        "shown": sum(map(len, one.shown.values())),
        "requests": [_described(asked) for asked in one.asked],
    }


def _described(asked: Asked) -> Plain:
    references = [asked.counted(label) for label in REFERENCES]
    whole = set(asked.whole)
    return {
        "title": asked.plan["title"],
        "pools": asked.plan["pools"],
        "lost": asked.lost,
        "references": [sum(ended for ended, _ in references), sum(total for _, total in references)],
        "ready": asked.has_references,
        "rows": [{"name": label, "seeds": list(asked.counted(label)), "whole": label in whole} for label in asked.labels],
    }


def result_of(one: Comparison, pages: Sequence[Path]) -> str:
    """Return the name of the folder with the finished result of a comparison; empty if none of the latest ones is made of its runs.

    Args:
        one: a comparison that has been seen and is gone, as it was last.
        pages: of finished results.
    """
    for page in sorted(pages, key=lambda path: path.stat().st_mtime, reverse=True)[:LATEST]:
        with contextlib.suppress(BadInput, OSError, LookupError, TypeError, AttributeError):  # another version's record is not it
            if _is_of(runs.read_json(page.with_name("record.json")), {asked.plan["title"]: asked for asked in one.asked}):
                return page.parent.name
    return ""


def _is_of(records: Sequence[Plain], asked: Mapping[str, Asked]) -> bool:
    """Return whether records are those of some requests: the same rows and the same runs, as far as these have ended."""
    return all(record["title"] in asked and _is_made_of(record, asked[record["title"]]) for record in records)


def _is_made_of(record: Plain, asked: Asked) -> bool:
    used = {key: Path(folder).name for key, folder in record["provenance"]["runs"].items()}
    keys = {key for held in asked.plan["runs"].values() for key in held}
    mine = {key: Path(how["folder"]).name for key, how in asked.ended.items() if key in keys and how.get("folder")}
    same = set(record["methods"]) == set(asked.labels) and record["request"].get("tier") == asked.plan["tier"]
    return same and used.keys() <= keys and mine.items() <= used.items()
