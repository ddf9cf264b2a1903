"""Checks of an audit record, of the files it names, and of the ledger it stands in. Each says what it looked at; none trains or judges."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge import runs
from expunge.data.split import PARTS, Split
from expunge.errors import BadInput
from expunge.models import checkpoint
from expunge.pools.workplace import Workplace
from expunge.requests import record as records
from expunge.requests.ledger import Ledger


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was looked at.
        passed: None where it could not be done.
        words: what was found.
    """

    name: str
    passed: bool | None
    words: str

    @property
    def line(self) -> str:
        """The check as a line of text."""
        return f"{ {True: '✓', False: '✕', None: '–'}[self.passed] } {self.name}: {self.words}"


def verify(folder: Path, ledger: Path | None = None, with_data: bool = False, head: str | None = None) -> list[Check]:
    """Return every check of the run folder of a deletion.

    Args:
        folder: with ``audit.json``.
        ledger: in which the request stands; without it what the record says of the ledger is not checked.
        with_data: read the data set and compare the content of the deleted examples, and look for exact copies among the kept ones.
        head: hash of the last line of the ledger that was noted elsewhere earlier; see `Ledger.place`.

    Raises:
        BadInput: there is no record, no such ledger, or a noted hash and no ledger.
    """
    if ledger is not None and not ledger.is_file():
        raise BadInput("--ledger", f"there is no file {ledger}.", "Give the ledger in which the request stands.")
    if head is not None and ledger is None:
        raise BadInput("--head", "is the hash of a line of a ledger, and no ledger is given.", "Add --ledger=FILE.")
    record = records.read(folder)
    checks = [_own_hash(record), _complete(record)]
    if not _is_readable(record):
        return checks
    checks += [*_files(folder, record), _weights(folder, record), _changed(record), _run(folder, record), *_evidence(record)]
    split = _split(folder)
    checks += [split] if isinstance(split, Check) else list(_keys(record, split))
    if ledger is not None:
        checks += list(_in_ledger(record, Ledger(ledger), None if isinstance(split, Check) else split, head))
    if with_data and not isinstance(split, Check):
        checks += list(_content(folder, record, split))
    return checks


def verify_ledger(path: Path, head: str | None = None) -> list[Check]:
    """Return the checks of a ledger alone: whether its lines follow each other, mean something, and are those of when a hash was noted.

    Raises:
        BadInput: the noted hash is none.
    """
    ledger = Ledger(path)
    try:
        entries, _ = ledger.entries(), ledger.requests()
    except BadInput as error:
        return [Check("ledger", False, str(error))]
    if not entries:
        return [Check("ledger", False, "holds no whole line: it is empty, or no ledger")]
    torn = f"; {ledger.unfinished} unfinished lines count for nothing" if ledger.unfinished else ""
    words = f"{len(entries)} lines follow each other, the last with the hash {ledger.head}{torn}"
    return [Check("ledger", True, words), *_head(ledger, head, len(entries))]


def _head(ledger: Ledger, head: str | None, lines: int) -> Iterator[Check]:
    """Say whether the lines up to a noted hash are those of then: whoever writes the whole file anew cannot make that hash again."""
    if head is None:
        return
    place = ledger.place(head)
    if place is None:
        yield Check("head", False, f"no line has the hash {head.strip()[:16]} that was noted: lines were changed or cut off since")
        return
    words = f"line {place} has the hash that was noted: nothing up to it was changed since"
    yield Check("head", True, f"{words}; {lines - place} lines were added")


def _own_hash(record: dict[str, Any]) -> Check:
    fits = records.plain_hash(record) == record.get("hash")
    return Check("record", fits, f"its hash {str(record.get('hash'))[:16]} fits" if fits else "was changed: its hash does not fit")


def _complete(record: dict[str, Any]) -> Check:
    missing = [name for name, kind in records.REQUIRED.items() if not record.get(name) or not isinstance(record[name], kind)]
    if _is_readable(record):
        deleted = record["deleted"]
        missing += ["deleted.keys"] if not deleted["keys"] or deleted.get("count") != len(deleted["keys"]) else []
        missing += [f"files.{name}" for name in records.FILES if not record["files"].get(name)]
    else:
        missing.append("what is compared")
    return Check("completeness", not missing, f"lacks {', '.join(missing)}" if missing else "everything that a record must hold is there")


def _is_readable(record: dict[str, Any]) -> bool:
    """Return whether a record holds what is compared, so that somebody's changes to it are a finding and no crash."""
    if not all(isinstance(record.get(name), dict) for name in ("weights", "deleted", "split", "files")):
        return False
    texts = [record["weights"].get("before"), record["weights"].get("after"), record["split"].get("content_hash"), record.get("request")]
    keys = record["deleted"].get("keys")
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(keys, list)
        and all(type(key) is int and 0 <= key < 2**63 for key in keys)
    )


def _files(folder: Path, record: dict[str, Any]) -> Iterator[Check]:
    for name, stated in record["files"].items():
        found = records.file_hash(folder / name)
        words = "is not there" if found is None else f"SHA-256 {found[:16]} fits" if found == stated else "was changed since the record"
        yield Check(name, found is not None and found == stated, words)


def _weights(folder: Path, record: dict[str, Any]) -> Check:
    """Compare the tensors themselves, so that a file that was written anew with the same weights is known as such."""
    stated = record["weights"]["after"]
    try:
        found = checkpoint.tensors_hash(checkpoint.read_state(folder / "weights.safetensors"))
    except BadInput as error:
        return Check("weights", False, str(error))
    words = f"the tensors have the hash {stated[:16]} of the record" if found == stated else "the tensors are not those of the record"
    return Check("weights", found == stated, words)


def _changed(record: dict[str, Any]) -> Check:
    before, after = record["weights"]["before"], record["weights"]["after"]
    changed = before != after
    return Check("change", changed, f"{before[:16]} became {after[:16]}" if changed else "the weights are those of before")


def _run(folder: Path, record: dict[str, Any]) -> Check:
    """Compare with what the run itself wrote: which split and settings it was given, from what it started and what it left."""
    try:
        run = runs.read_json(folder / "record.json")
        identity = run["identity"]
        pairs = {
            "before": (identity["original"], record["weights"].get("file", record["weights"]["before"])),
            "after": (run["weights"], record["weights"]["after"]),
            "split": (identity["split"], record["split"]["content_hash"][: len(identity["split"])]),
            "method": (
                [identity[key] for key in ("method", "addons", "seed")],
                [record["method"][key] for key in ("method", "addons", "seed")],
            ),
        }
    except (BadInput, KeyError, TypeError) as error:
        return Check("run", False, f"its own record cannot be read: {error}")
    other = [name for name, (theirs, ours) in pairs.items() if theirs != ours]
    words = (
        f"the run's own record has another {', another '.join(other)}"
        if other
        else "was given this split and method, and left these weights"
    )
    return Check("run", not other, words)


def _evidence(record: dict[str, Any]) -> Iterator[Check]:
    """Say of an evaluation that is named whether it is one of these settings: one of others speaks of other models."""
    held = record["evidence"] if isinstance(record.get("evidence"), dict) else {}
    rows, file = held.get("same_settings"), held.get("file")
    if held.get("kind") != "evaluation":
        return
    if isinstance(rows, list) and rows:
        yield Check("evidence", True, f"{file} evaluates these settings as {', '.join(map(str, rows))}")
    else:
        yield Check("evidence", None, f"{file} does not evaluate these settings, as far as the record says")


def _split(folder: Path) -> Split | Check:
    try:
        return Split.load(folder / "split.json")
    except BadInput as error:
        return Check("split", False, str(error))


def _keys(record: dict[str, Any], split: Split) -> Iterator[Check]:
    fits = split.content_hash == record["split"]["content_hash"]
    yield Check("split", fits, "is the one of the record" if fits else "is another than the record's")
    keys = np.array(record["deleted"]["keys"], dtype=np.int64)
    outside = np.setdiff1d(keys, split.forget)
    yield Check(
        "deleted keys",
        not len(outside),
        f"{len(outside)} of {len(keys)} are not in the forget set" if len(outside) else f"all {len(keys)} are in the forget set",
    )
    kept = {part: len(np.intersect1d(keys, split.index(part))) for part in PARTS if part != "forget"}
    found = [f"{count} in {part}" for part, count in kept.items() if count]
    yield Check("kept parts", not found, f"deleted keys are also kept: {', '.join(found)}" if found else "hold none of the deleted keys")


def _in_ledger(record: dict[str, Any], ledger: Ledger, split: Split | None, head: str | None) -> Iterator[Check]:
    try:
        entries, known, served = ledger.entries(), ledger.requests(), ledger.served()
    except BadInput as error:
        yield Check("ledger", False, str(error))
        return
    yield Check("ledger", True, f"{len(entries)} lines follow each other")
    yield from _head(ledger, head, len(entries))
    request = known.get(record["request"])
    if request is None:
        yield Check("request", False, f"{record['request']} is not in the ledger")
        return
    fits = request.status == "served" and request.facts.get("record") == record["hash"]
    words = "is served, with this record" if fits else f"is {request.status}, with another record or none"
    yield Check("request", fits, f"{request.name} {words}")
    same = list(request.keys) == record["deleted"]["keys"]
    yield Check("asked for", same, "the keys that were asked for are those that were deleted" if same else "other keys were asked for")
    stated = record.get("ledger") or {}
    there = any(entry.hash == stated.get("head") for entry in entries)
    yield Check(
        "place", there, "the ledger still holds the line after which the record was written" if there else "lines have gone from the ledger"
    )
    earlier = served[: next((place for place, one in enumerate(served) if one.name == request.name), 0)]
    if earlier:
        follows = earlier[-1].facts.get("after") == record["weights"]["before"]
        yield Check(
            "chain", follows, "it starts from the weights that the request before left" if follows else "it starts from other weights"
        )
    if earlier and split is not None:
        gone = np.concatenate([np.array(one.keys, dtype=np.int64) for one in earlier])
        back = len(np.intersect1d(gone, split.kept))
        words = (
            f"{back} of {len(gone)} keys of requests before are kept here" if back else "no key of a request before is among the kept ones"
        )
        yield Check("earlier keys", not back, words)


def _content(folder: Path, record: dict[str, Any], split: Split) -> Iterator[Check]:
    try:
        work = Workplace(records.settings_of(folder))
        fingerprint = work.plain_data.fingerprint
    except BadInput as error:
        yield Check("data", False, str(error))
        return
    if fingerprint != record["deleted"].get("data"):
        yield Check("data", None, "the data set is another one now, as it is when the examples were taken out of it")
        return
    stated = record["deleted"].get("content")
    if not isinstance(stated, dict) or not hasattr(work.plain_data.source, "digests"):
        yield Check("data", None, "the record holds no hashes of content")
        return
    digests = work.plain_data.source.digests()
    if max(record["deleted"]["keys"], default=0) >= len(digests):
        yield Check("data", False, "the data set has no examples with these keys")
        return
    found = records.contents(work.plain_data, record["deleted"]["keys"])
    yield Check(
        "data", found == stated, "the deleted examples are those of the record" if found == stated else "other content has these keys"
    )
    kept = {bytes(digests[key].tobytes()).hex() for key in split.kept.tolist()}
    copies = [key for key, digest in stated.items() if digest in kept]
    words = f"{len(copies)} deleted examples have exact copies among the kept ones ({', '.join(copies[:5])})"
    yield Check("copies", not copies, words if copies else "no kept example has the content of a deleted one")
