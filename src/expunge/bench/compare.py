"""Serve deletion requests: make every model that is not there yet, and write what they show."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.bench import declarations, pools
from expunge.bench.record import Found, record_of
from expunge.bench.request import Request, Row, jobs_of, prepare, request_of
from expunge.bench.underway import underway
from expunge.config import fingerprint
from expunge.pools import remote
from expunge.pools.executor import chosen
from expunge.pools.executor import run as run_jobs
from expunge.pools.workplace import code_fingerprint
from expunge.report import html
from expunge.report.terminal import csv

__all__ = ["Request", "Row", "compare", "jobs_of", "request_of"]

Report = Callable[[dict[str, Any]], None]
WHERE = ("workers", "batch_size", "ray", "gpus", "retries")
"""Fields of ``evaluate`` that decide where and how it is computed, and not what comes out."""


def compare(requests: Sequence[Request], report: Report, command: str) -> tuple[list[dict[str, Any]], Path]:
    """Run everything that is not there yet, and write table and report.

    Args:
        requests: what to compare; they share the output folder.
        report: hears every event of every job.
        command: what was typed, for the record.

    Returns:
        The record of each request, and the folder with ``record.json``, ``table.csv`` and ``report.html``.
    """
    prepare(requests, report)
    declarations.note(requests)
    with underway(requests, report, command) as driver:
        records, folder = _compare(requests, driver.report, command)
        driver.finished = True
    return records, folder


def _compare(requests: Sequence[Request], report: Report, command: str) -> tuple[list[dict[str, Any]], Path]:
    start = time.monotonic()
    work = requests[0].workplace()
    jobs = jobs_of(requests)
    report({"event": "plan", "jobs": [job.key for job in jobs]})
    folders = run_jobs(jobs, chosen(work), report)
    filled = [pools.fill(request, report) for request in requests]
    folder = work.out / f"compare-{fingerprint(identity(folders, requests))}"
    if is_written(folder):
        return runs.read_json(folder / "record.json"), folder
    records = [
        record_of(request, Found(number, folders, filled[number]), {"command": command, "seconds": round(time.monotonic() - start, 1)})
        for number, request in enumerate(requests)
    ]
    write(records, folder)
    return records, folder


def is_written(folder: Path) -> bool:
    """Return whether a folder holds a whole result, here or at the address of the store."""
    return remote.agree(folder, "record.json", "report.html")


def write(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write table, report and, last, the record."""
    with runs.atomic_write(folder / "table.csv") as temporary:
        temporary.write_text("\n".join(csv(record) for record in records), encoding="utf-8")
    html.write(list(records), folder / "report.html")
    runs.write_json(folder / "record.json", list(records))
    remote.push(folder, anew=True)


def identity(folders: Mapping[str, str], requests: Sequence[Request]) -> list[Any]:
    """Return all that decides a result; ``folders`` maps the key of each job to its run folder."""
    code = code_fingerprint("metrics", "audits", "attacks", "representation", "report", "bench", "pools", "statistics.py")
    asked = [request.workplace().experiment.evaluate.tree() for request in requests]
    decisive = [{key: value for key, value in tree.items() if key not in WHERE} for tree in asked]
    return [sorted((key, Path(folder).name) for key, folder in folders.items()), decisive, code]
