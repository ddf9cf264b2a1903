"""Run a grid: every model that is not there yet, each once; what fails becomes a row with its reason."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expunge import runs
from expunge.bench import declarations, pools, shards
from expunge.bench.compare import identity, is_written, write
from expunge.bench.grid import Grid
from expunge.bench.record import Found, record_of
from expunge.bench.request import Request, inspected, jobs_of, prepare
from expunge.bench.shards import Shard
from expunge.bench.underway import underway
from expunge.config import fingerprint
from expunge.errors import BadInput, RunFailed, is_about_results
from expunge.pools import store
from expunge.pools.executor import Failed, chosen
from expunge.pools.executor import run as run_jobs

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        records: of the requests that could be evaluated.
        folder: with ``record.json``, ``table.csv``, ``report.html`` and ``grid.json``; None after one shard of several.
        failed: what gave no result -> why: a run's key, or the title of a request.
        runs: how many jobs there were.
    """

    records: list[dict[str, Any]]
    folder: Path | None
    failed: dict[str, str]
    runs: int


def bench(grid: Grid, report: Report, command: str, shard: Shard | None = None) -> Result:
    """Run everything of a grid that is not there yet, and write table and report.

    Args:
        grid: what to run.
        report: hears every event of every job.
        command: what was typed, for the record.
        shard: run one machine's share alone, and write no table.

    Raises:
        BadInput: what cannot work, before any work; or the folder cannot be written.
        RunFailed: no request could be evaluated.
    """
    asked = {"command": command, "start": time.monotonic()}
    prepare(grid.requests, report)
    declarations.note(grid.requests)
    with underway(grid.requests, report, command) as driver:
        result = _bench(grid, driver.report, asked, shard)
        driver.finished = result.folder is not None
    return result


def _bench(grid: Grid, report: Report, asked: Mapping[str, Any], shard: Shard | None) -> Result:
    requests = grid.requests
    jobs = jobs_of(requests) if shard is None else shards.share(requests, shard)
    report({"event": "plan", "jobs": [job.key for job in jobs]})
    results = run_jobs(jobs, chosen(requests[0].workplace()), report, keep_going=True)
    failed = {key: result.reason for key, result in results.items() if isinstance(result, Failed)}
    folders = {key: folder for key, folder in results.items() if key not in failed}
    if shard is not None:
        filled = {request.title: _fill(request, report) for request in requests if shard.owns(shards.identity_of(request))}
        return Result([], None, failed | _failed_of(filled), len(jobs))
    return _evaluate(grid, folders, failed, report, asked)


@dataclass(frozen=True)
class _Lost:
    """A request that cannot be evaluated, and why."""

    title: str
    reason: str


def _failed_of(filled: Mapping[str, "pools.Filled | _Lost"]) -> dict[str, str]:
    """Return what failed while the pools of requests were filled -> why."""
    failed = {title: found.reason for title, found in filled.items() if isinstance(found, _Lost)}
    for title, found in filled.items():
        failed |= {} if isinstance(found, _Lost) else {f"{title}/{label}": reason for label, reason in found.failed.items()}
    return failed


def _evaluate(grid: Grid, folders: dict[str, str], failed: dict[str, str], report: Report, asked: Mapping[str, Any]) -> Result:
    found = [_found(number, request, folders, failed, report) for number, request in enumerate(grid.requests)]
    lost = {one.title: one.reason for one in found if isinstance(one, _Lost)}
    count = len(folders) + len(failed)
    failed = failed | _failed_of({grid.requests[one.number].title: one.pools for one in found if isinstance(one, Found)})
    _check_left(lost, grid)
    folder = grid.requests[0].workplace().out / f"bench-{fingerprint([identity(folders, grid.requests), sorted(failed), sorted(lost)])}"
    if is_written(folder) and (folder / "grid.json").is_file() and runs.read_json(folder / "grid.json")["lost"].keys() <= lost.keys():
        return Result(runs.read_json(folder / "record.json"), folder, failed | lost, count)
    provenance = {"command": asked["command"], "seconds": round(time.monotonic() - asked["start"], 1)}
    judged = [_recorded(grid.requests[one.number], one, provenance) for one in found if isinstance(one, Found)]
    lost |= {one.title: one.reason for one in judged if isinstance(one, _Lost)}
    _check_left(lost, grid)
    records = [one for one in judged if not isinstance(one, _Lost)]
    runs.write_json(folder / "grid.json", {**_described(grid), "command": asked["command"], "failed": failed, "lost": lost})
    write(records, folder)
    return Result(records, folder, failed | lost, count)


def _check_left(lost: Mapping[str, str], grid: Grid) -> None:
    if len(lost) == len(grid.requests):
        raise RunFailed(f"no request could be evaluated. {next(iter(lost))}: {next(iter(lost.values()))}")


def _recorded(request: Request, found: Found, provenance: dict[str, Any]) -> dict[str, Any] | _Lost:
    try:
        return record_of(request, found, provenance)
    except Exception as error:  # what cannot be judged ends its request, and not the others, until the next call
        if is_about_results(error):
            raise
        return _Lost(request.title, f"{type(error).__name__}: {error}")


def _described(grid: Grid) -> dict[str, Any]:
    return {
        "format": 1,
        "asked": {key: value for key, value in grid.asked.items() if key != "track"},
        "requests": [{"title": request.title, "rows": [row.label for row in request.rows]} for request in grid.requests],
        "left_out": [asdict(out) for out in grid.left_out],
    }


def _found(number: int, request: Request, folders: Mapping[str, str], failed: Mapping[str, str], report: Report) -> Found | _Lost:
    """Return what is there of a request; nothing of it can be judged without its originals and retrained models."""
    failed = _with_uninspected(number, request, failed)
    keys = Found(number, folders, pools.Filled(), failed).keys(request)
    for key in [*keys["original"], *keys["retrained"]]:
        reason = failed.get(key) or _diverged(folders[key])
        if reason:
            return _Lost(request.title, f"{key}: {reason}")
    alive = [row for row in request.rows if any(key not in failed for key in keys[row.label])]
    filled = _fill(replace(request, rows=alive), report)
    return filled if isinstance(filled, _Lost) else Found(number, folders, filled, failed)


def _with_uninspected(number: int, request: Request, failed: Mapping[str, str]) -> dict[str, str]:
    """Return what failed of the request's runs, those among them that nobody could look into."""
    looks = {run: failed[key] for key, (run, _) in inspected(number, request).items() if key in failed and run not in failed}
    return {**failed, **looks}


def _diverged(folder: str) -> str:
    run = store.find(folder)
    return "" if run.status == "ok" else f"{run.status}: {run.record['failure']['reason']}"


def _fill(request: Request, report: Report) -> pools.Filled | _Lost:
    try:
        return pools.fill(request, report, keep_going=True)
    except BadInput as error:
        if is_about_results(error):
            raise
        return _Lost(request.title, str(error))
    except Exception as error:  # whatever the pools that all rows share raise ends the request, and not the others
        return _Lost(request.title, f"{type(error).__name__}: {error}")


def summary(result: Result) -> Sequence[str]:
    """Return how it went, in lines: what failed, and the count."""
    lines = [f"failed: {key}: {' '.join(reason.split())}" for key, reason in result.failed.items()]
    rows = [row for record in result.records for row in record["table"]["rows"] if row["role"] == "unlearned"]
    broken = sum(row["status"] != "finished" for row in rows)
    if result.folder is None:
        return [*lines, f"{result.runs} runs of this shard, {len(result.failed)} failed. When all shards are done, run without --shard."]
    requests = "1 request" if len(result.records) == 1 else f"{len(result.records)} requests"
    return [*lines, f"{'1 row' if len(rows) == 1 else f'{len(rows)} rows'} in {requests}, {broken} failed or diverged."]
