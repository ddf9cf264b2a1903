"""The report of a comparison in progress: of the rows that are whole by now, from finished runs alone.

A row is whole when all of its seeds have ended; of one with some seeds nothing is shown, because its number would still change, and
whoever sees a good seed might be tempted to stop there. Rows are shown once all originals and retrained models of their request are
there, since these make the bands. A verdict counts all tests of a row together, and of no other row: so it is the final one, unless the
tier asks for pools of models, which come last. Then no row has a verdict, the reference rows included.

Nothing is trained or written to the run folders. `main` runs in a process of its own, which gives way to others.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge import config, runs
from expunge.bench.pools import Filled
from expunge.bench.record import Found, record_of
from expunge.bench.request import Request, Row, inspected
from expunge.data.split import Split
from expunge.errors import BadInput
from expunge.report import html
from expunge.report.figures import payload
from expunge.report.watching import comparisons
from expunge.report.watching.comparisons import Asked, Comparison

REPORT, RECORD = "report.html", "record.json"
PENDING = "a verdict counts all tests of a row, and those on the tier's pools of models come last"
WITHOUT_POOL = "pool, and there is none"
Plain = dict[str, Any]


def records(one: Comparison, out: Path) -> list[Plain]:
    """Return the record of each request that has whole rows, as far as it can be said by now.

    Each holds ``growing`` beside what a finished record does: ``{"request": number, "rows": [whole, planned], "pools": whether the tier's
    pools are still to come}``.

    Args:
        one: the comparison.
        out: the folder that it lies in, wherever that is from here.

    Raises:
        BadInput: its data is not on this machine, or a run folder is damaged.
    """
    return [_record(one, asked, out) for asked in one.asked if str(asked.number) in one.shown]


def _record(one: Comparison, asked: Asked, out: Path) -> Plain:
    labels, stated = asked.whole, Path(one.plan["out"])
    kept = {key: _place(Path(how["folder"]), stated, out) for key, how in asked.ended.items() if how.get("folder")}
    request = _request(asked, labels, out, _split(asked, kept))
    folders, failed = _by_key_here(asked, request, kept)
    provenance = {"command": one.plan["command"], "seconds": round(time.time() - one.begun, 1)}
    record = record_of(request, Found(asked.number, folders, Filled(), failed), provenance)
    record["provenance"]["config"] = config.to_yaml(config.resolve(asked.plan["tree"]).lasting())
    record["growing"] = {"request": asked.number, "rows": [len(labels), len(asked.labels)], "pools": asked.plan["pools"]}
    return _held_back(record) if asked.plan["pools"] else record


def _request(asked: Asked, labels: list[str], out: Path, split: Split) -> Request:
    """Return the request with its whole rows, on the CPU: an accelerator belongs to those who train."""
    rows = [Row(**row) for row in asked.plan["rows"] if row["label"] in labels]
    return Request(asked.plan["title"], {**asked.plan["tree"], "device": "cpu", "out": str(out)}, rows, split)


def _split(asked: Asked, kept: Mapping[str, Path]) -> Split:
    """Return the split of the request from one of its run folders.

    Raises:
        BadInput: none holds it.
    """
    for path in (kept[key] / "split.json" for keys in asked.plan["runs"].values() for key in keys if key in kept):
        if path.is_file():
            found = Split.load(path)
            if found.fingerprint == asked.plan["split"]:
                return found
    raise BadInput("report", "no run folder holds the split of the request.", "Run the command again; it goes on.")


def _by_key_here(asked: Asked, request: Request, kept: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Return folder and failure by the keys that jobs have here: those of originals hold the driver's device, which stays untouched.

    A run that nobody could look into has failed.
    """
    here = Found(asked.number, {}, Filled()).keys(request)
    names = {key: mine for label, keys in here.items() for mine, key in zip(keys, asked.plan["runs"][label], strict=True)}
    ended = {names.get(key, key): (str(kept.get(key, "")), how.get("failed")) for key, how in asked.ended.items()}
    failed = {key: reason for key, (_, reason) in ended.items() if reason}
    looks = {run: failed[job] for job, (run, _) in inspected(asked.number, request).items() if job in failed and run not in failed}
    return {key: folder for key, (folder, reason) in ended.items() if not reason}, {**failed, **looks}


def _place(stated: Path, out: Path, here: Path) -> Path:
    """Return where a folder of the driver's output folder lies from here."""
    return here / stated.relative_to(out) if stated.is_relative_to(out) else stated


def _held_back(record: Plain) -> Plain:
    """Return a record without whatever counts all tests of a row, and that says of what rests on pools that these are still to come."""
    rows = [{**row, "verdict": f"no verdict: {PENDING}"} for row in record["table"]["rows"]]
    table = {**record["table"], "rows": rows, "skipped": _awaited(record["table"]["skipped"])}
    held = record["audits"]
    if held["reason"]:
        return {**record, "table": table}
    audits = {name: _alone(head) for name, head in held["audits"].items()}
    return {**record, "table": table, "audits": {**held, "audits": audits, "skipped": _awaited(held["skipped"])}}


def _alone(head: Plain) -> Plain:
    """Return an audit as one test alone, without what it says among all tests of a row."""
    rows = {label: {**cell, "p_holm": None, "finding": None} for label, cell in head["rows"].items()}
    noticed = head["detectable"]
    return {**head, "rows": rows, "detectable": noticed and {key: value for key, value in noticed.items() if key != "adjusted"}}


def _awaited(skipped: Mapping[str, str]) -> dict[str, str]:
    return {name: reason.replace(WITHOUT_POOL, "pool, which is filled last") for name, reason in skipped.items()}


def build(out: Path, identity: str, target: Path, page: int = 0) -> bool:
    """Write ``report.html`` and ``record.json`` of a comparison in progress into another folder; return whether there was anything to show.

    Args:
        out: the folder that the comparison lies in.
        identity: of the comparison.
        target: where both files go.
        page: number of the page, by which a reader's browser sees that there is a newer one.
    """
    one = next((found for found in comparisons.find(out) if found.identity == identity), None)
    if one is None or not one.shown:
        return False
    made = records(one, out)
    underway = {**comparisons.describe(one), "page": page}
    text = html.render(made, [payload.of(record, out / "growing") for record in made], underway)
    with runs.atomic_write(target / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    runs.write_json(target / RECORD, made)
    return True


def main() -> None:
    """Build the report that the command line names: see `build`, whose arguments these are."""
    import torch

    if hasattr(os, "nice"):
        os.nice(10)
    torch.set_num_threads(1)
    out, identity, target, page = sys.argv[1:]
    try:
        if not build(Path(out), identity, Path(target), int(page)):
            sys.exit("there is nothing to show of it any more.")
    except BadInput as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
