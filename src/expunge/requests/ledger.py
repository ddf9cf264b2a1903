"""The ledger of deletion requests: who asked for what, when, and what became of it. A file to which lines are only added.

Each line is JSON and holds the hash of the line before, so that a line that was changed, taken out or put in later is found. Whoever may
rewrite the whole file can rewrite all hashes, and lines cut off at its end leave no trace in it: keep the last hash (`Ledger.head`)
somewhere else, and `Ledger.place` notices either. A line is on the disk before the call that adds it returns; one that a killed
process left unfinished counts for nothing.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from expunge.data.scenarios.ids import HEADERS
from expunge.data.split_file import from_ranges, hash_tree, to_ranges
from expunge.errors import BadInput, nearest
from expunge.pools import locks
from expunge.runs import unreadable

EVENTS = ("received", "started", "served", "failed", "withdrawn")
START = "0" * 64
"""What stands for the line before the first."""
STATUS = {"received": "waiting", "started": "started", "served": "served", "failed": "failed", "withdrawn": "withdrawn"}
HASH = re.compile(r"[0-9a-f]{64}")
CLOSED = re.compile(rb'"hash": "[0-9a-f]{64}"}$')
"""How a line that was written to its end ends."""
OPENING = b'{"number": 0, "time": "'
"""How the first line of every ledger begins."""
COLUMNS = ("request", "ticket")
"""Of a CSV file with several requests: the one that names them."""


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        number: from 0.
        time: UTC, ISO 8601.
        event: one of ``EVENTS``.
        request: its name.
        facts: what belongs to the event, as plain values.
        hash: of the line with the hash of the one before.
    """

    number: int
    time: str
    event: str
    request: str
    facts: Mapping[str, Any]
    hash: str


@dataclass(frozen=True)
class Known:
    """What the ledger says about one request.

    Attributes:
        name: of the request.
        by: who asked; as little as identifies the letter in the files of whoever received it.
        keys: canonical indices of the examples, ascending.
        received: UTC.
        status: waiting, started, served, failed or withdrawn.
        changed: when it came to that, UTC.
        facts: of the last event.
    """

    name: str
    by: str
    keys: tuple[int, ...]
    received: str
    status: str
    changed: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ledger:
    """A ledger file; it is made with the first line.

    Attributes:
        path: of the file.
        heard: is given each line that is added here, once it is on the disk; None for nobody.
    """

    path: Path
    heard: Callable[[Entry], None] | None = field(default=None, compare=False)

    def entries(self) -> list[Entry]:
        """Return all lines in order.

        Raises:
            BadInput: the file cannot be read or is no ledger, or a line does not fit the one before: it was changed, taken out or put in.
        """
        return self._read()[0]

    @property
    def head(self) -> str:
        """The hash of the last line; kept elsewhere it proves that no line up to it was changed or cut off later."""
        found = self.entries()
        return found[-1].hash if found else START

    def place(self, head: str) -> int | None:
        """Return how many lines the ledger had when a hash that was noted was its head; None if it never was the head of these lines.

        Every line holds the hash of the one before: as long as the noted line is there, all before it are those of then.

        Raises:
            BadInput: no whole hash of a line, or see `entries`.
        """
        wanted = head.strip().lower()
        if not HASH.fullmatch(wanted) or wanted == START:
            raise BadInput(
                "head", f"{head!r} is no hash of a line.", "Give all 64 digits, as `expunge ledger` and `expunge serve` print them."
            )
        return next((entry.number + 1 for entry in self.entries() if entry.hash == wanted), None)

    @property
    def unfinished(self) -> int:
        """How many lines a killed process left unfinished."""
        return self._read()[1]

    def requests(self) -> dict[str, Known]:
        """Return what is known of each request, in the order in which they were received.

        Raises:
            BadInput: see `entries`; or a line that fits its hash and means nothing.
        """
        found: dict[str, Known] = {}
        for entry in self.entries():
            try:
                found[entry.request] = _after(entry, found.get(entry.request))
            except (KeyError, ValueError, TypeError, AttributeError):
                where = f"{self.path}, entry {entry.number + 1}"
                raise BadInput(where, f"no {entry.event!r} can be of {entry.request!r} here.", "Restore the file from a copy.") from None
        return found

    def served(self) -> list[Known]:
        """Return the requests that were served, in the order in which that was done."""
        known, done = self.requests(), [entry.request for entry in self.entries() if entry.event == "served"]
        return [known[name] for name in done]

    def receive(self, request: str, keys: Iterable[int], by: str = "") -> Entry:
        """Add a request.

        Args:
            request: a name that no other request has, such as the number of a ticket.
            keys: canonical indices of the examples, in the order of the training set.
            by: who asked. It is never deleted: write a reference, not a person.

        Raises:
            BadInput: the name is empty or taken, there are no keys, or an example is in a request already.
        """
        chosen = _chosen(request, keys)
        facts = {"by": by, "keys": to_ranges(chosen), "count": len(chosen)}
        return self._append("received", request, facts, lambda known: _check_new(request, chosen, known))

    def check_all(self, requests: Mapping[str, Iterable[int]]) -> None:
        """Refuse requests of which one cannot be added, before any is.

        Raises:
            BadInput: see `receive`.
        """
        known = dict(self.requests())
        for name, keys in requests.items():
            chosen = _chosen(name, keys)
            _check_new(name, chosen, known)
            known[name] = Known(name, "", tuple(chosen.tolist()), "", "waiting", "")

    def note(self, event: str, request: str, **facts: Any) -> Entry:
        """Add what happened to a request.

        Raises:
            BadInput: no such event or request, or one that is served or withdrawn already.
        """
        if event not in EVENTS or event == "received":
            raise BadInput("ledger", f"no event is called {event!r}.", nearest(event, EVENTS[1:]))
        return self._append(event, request, facts, lambda known: _check_open(request, known))

    def _append(self, event: str, request: str, facts: Mapping[str, Any], check: Any) -> Entry:
        with locks.hold(self.path.parent / f".{self.path.name}.d", wait=True):
            check(self.requests())
            found, _ = self._read()
            line: dict[str, Any] = {
                "number": len(found),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "event": event,
                "request": request,
                "facts": dict(facts),
                "previous": found[-1].hash if found else START,
            }
            entry = Entry(line["number"], line["time"], event, request, dict(facts), hash_tree(line))
            self._write(json.dumps({**line, "hash": entry.hash}, allow_nan=False))
        if self.heard is not None:
            self.heard(entry)
        return entry

    def _write(self, line: str) -> None:
        new = not self.path.exists()
        try:
            with open(self.path, "ab+") as file:
                closed = not file.tell() or _last_byte(file) == b"\n"
                file.write((line if closed else f"\n{line}").encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise BadInput("ledger", f"cannot write {self.path}: {error.strerror}.", "Make room, or choose another file.") from None

    def _read(self) -> tuple[list[Entry], int]:
        """Return the lines and how many are unfinished."""
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        except OSError as error:
            raise unreadable(self.path, error) from None
        found: list[Entry] = []
        torn = 0
        for place, raw in enumerate(lines, 1):
            if raw and (held := _parsed(raw)) is None:
                if CLOSED.search(raw):
                    raise BadInput(
                        f"{self.path}, line {place}", "the line is damaged: it is whole, and no JSON.", "Restore the file from a copy."
                    )
                torn += 1
            elif raw:
                found.append(_checked(held, found[-1].hash if found else START, f"{self.path}, line {place}"))
        if not found and not all(map(_is_begun, filter(None, lines))):
            raise BadInput(
                str(self.path), "holds no whole line of a ledger: it is another file.", "Give the ledger, or a new name for one."
            )
        return found, torn


def _is_begun(raw: bytes) -> bool:
    """Return whether a line without an end can be the first of a ledger, whose process was killed while it wrote."""
    return raw.startswith(OPENING) or OPENING.startswith(raw)


def _parsed(raw: bytes) -> Any:
    """Return the mapping of a line; None for a line that was not finished."""
    try:
        held = json.loads(raw)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def _checked(held: dict[str, Any], previous: str, where: str) -> Entry:
    stated = held.pop("hash", None)
    if _hash(held) != stated or held.keys() != {"number", "time", "event", "request", "facts", "previous"}:
        raise BadInput(where, "the line was changed: it does not fit its own hash.", "Restore the file from a copy.")
    if held["previous"] != previous:
        raise BadInput(where, "the line does not follow the one before it: one was taken out or put in.", "Restore the file from a copy.")
    return Entry(held["number"], held["time"], held["event"], held["request"], held["facts"], str(stated))


def _hash(held: dict[str, Any]) -> str | None:
    """Return the hash of a line; None for one with numbers that are none, which nobody here has written."""
    try:
        return hash_tree(held)
    except ValueError:
        return None


def _after(entry: Entry, before: Known | None) -> Known:
    """Return what is known of a request after a line about it; raises where the line cannot be."""
    if entry.event == "received":
        if before is not None:
            raise ValueError(entry.request)
        return Known(entry.request, entry.facts["by"], tuple(from_ranges(entry.facts["keys"]).tolist()), entry.time, "waiting", entry.time)
    if before is None or before.status in ("served", "withdrawn"):
        raise ValueError(entry.request)
    return replace(before, status=STATUS[entry.event], changed=entry.time, facts={**entry.facts, "hash": entry.hash})


def _chosen(request: str, keys: Iterable[int]) -> np.ndarray:
    """Return the keys of a new request, int64, ascending; refuse what none can have."""
    chosen = sorted(set(keys))
    if not request or not request.isprintable():
        raise BadInput("request", f"got the name {request!r}.", "Give a name such as T-17.")
    if not chosen:
        raise BadInput(f"request {request}", "names no example.", "Count from 0.")
    if not 0 <= chosen[0] <= chosen[-1] < 2**63:
        raise BadInput(f"request {request}", f"{chosen[0] if chosen[0] < 0 else chosen[-1]} is no index.", "Count from 0.")
    return np.array(chosen, dtype=np.int64)


def _check_new(request: str, keys: np.ndarray, known: Mapping[str, Known]) -> None:
    if request in known:
        raise BadInput(f"request {request}", "is in the ledger already.", "Give another name.")
    for other in known.values():
        both = np.intersect1d(keys, np.array(other.keys, dtype=np.int64))
        if len(both) and other.status != "withdrawn":
            shown = ", ".join(map(str, both[:5].tolist()))
            raise BadInput(f"request {request}", f"{len(both)} of its examples ({shown}) are in {other.name} already.", "Leave them out.")


def _check_open(request: str, known: Mapping[str, Known]) -> None:
    if request not in known:
        raise BadInput("ledger", f"no request is called {request!r}.", nearest(request, known) if known else "There are none.")
    if known[request].status in ("served", "withdrawn"):
        raise BadInput(f"request {request}", f"is {known[request].status} already.", "Its record stays as it is.")


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return bytes(file.read(1))


def _sync_folder(folder: Path) -> None:
    """Put the entry of a new file on the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_requests(path: Path) -> dict[str, list[int]]:
    """Return the requests of a CSV file with a column ``id`` or ``index`` and one called ``request`` or ``ticket``, in its order.

    Without a second column all of the file is one request, named after it.

    Raises:
        BadInput: the file cannot be read, or a line holds no whole number.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"cannot be read: {error}.", "Give a CSV file.") from None
    heads = {str(head).strip().lower(): head for head in (rows[0] if rows else {})}
    number = next((heads[name] for name in HEADERS if name in heads), None)
    if number is None:
        raise BadInput(str(path), f"has the columns {', '.join(heads) or 'none'}.", "One must be called id or index.")
    names = next((heads[name] for name in COLUMNS if name in heads), None)
    found: dict[str, list[int]] = {}
    for line, row in enumerate(rows, 2):
        text = (row[number] or "").strip()
        if not text.isdecimal() or len(text) > 18:
            raise BadInput(f"{path}, line {line}", f"{text!r} is not a whole number from 0.", "Mend the line.")
        found.setdefault((row[names] or "").strip() if names else path.stem, []).append(int(text))
    return found
