"""A comparison while it is made, written down for whoever looks on: what is to come, and which of its jobs have ended.

Each driver keeps ``OUT/plans/IDENTITY-NUMBER``: ``plan.json``, ``ended.jsonl`` with a line for each job that has ended, and a lock that
goes with the process, so that the plan of a killed driver does not look alive. Drivers of one comparison, such as the shards of a bench,
have plans of one identity. Nothing is ever made from a plan: `expunge.bench.growing` reads finished runs that it names.
"""

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import runs
from expunge.config import fingerprint
from expunge.pools import locks, remote
from expunge.pools.executor import Failed

if TYPE_CHECKING:
    from expunge.bench.request import Request, Row

FOLDER, PLAN, ENDED = "plans", "plan.json", "ended.jsonl"
FORMAT = 1
KEPT_SECONDS = 30 * 86_400.0
"""How long the plan of a comparison stays that nobody works on, such as one that was begun again with other settings."""
Plain = dict[str, Any]


@dataclass
class Driver:
    """Whoever makes a comparison, as its plan sees it.

    Attributes:
        folder: of the plan.
        jobs: keys of the comparison's jobs.
        told: hears every event too.
        finished: whether its result is written.
    """

    folder: Path
    jobs: frozenset[str]
    told: Callable[[Plain], None]
    finished: bool = False
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def report(self, event: Plain) -> None:
        """Write down that a job has ended, and pass every event on; may be called from several threads."""
        if event["event"] == "done" and event["key"] in self.jobs and "result" in event:
            result = event["result"]
            ended = {"failed": result.reason} if isinstance(result, Failed) else {"folder": result and str(remote.local(result))}
            with self._writing:
                runs.append_event(self.folder / ENDED, key=event["key"], **ended)
        self.told(event)


@contextlib.contextmanager
def underway(requests: "Sequence[Request]", report: Callable[[Plain], None], command: str) -> Iterator[Driver]:
    """Keep the plan of a comparison while the block makes it.

    A block that says that the comparison is ``finished`` leaves nothing behind. One that ends with an error, or like a shard before the
    others have ended, leaves the plan as that of a comparison that nobody works on; the next driver of the same one takes it away, and
    after a month that of any other.

    Args:
        requests: about to be evaluated; their data and splits can be read.
        report: hears every event.
        command: what was typed.

    Raises:
        BadInput: the folder cannot be written.
    """
    plan = _described(requests, command)
    plans = requests[0].workplace().out / FOLDER
    identity = _identity(plan)
    _tidy(plans, identity)
    driver = Driver(plans / f"{identity}-{uuid.uuid4().hex[:8]}", frozenset(jobs_in(plan)), report)
    with locks.hold(driver.folder, wait=True):
        runs.write_json(driver.folder / PLAN, plan)
        yield driver
    if driver.finished:
        _tidy(plans, identity)


def jobs_in(plan: Plain) -> set[str]:
    """Return the keys of all jobs of a plan, those that look into models too."""
    return {key for request in plan["requests"] for keys in (*request["runs"].values(), *request["looks"].values()) for key in keys}


def _described(requests: "Sequence[Request]", command: str) -> Plain:
    return {
        "format": FORMAT,
        "command": command,
        "directory": os.getcwd(),
        "out": str(requests[0].workplace().out),
        "requests": [_request(number, request) for number, request in enumerate(requests)],
    }


def _request(number: int, request: "Request") -> Plain:
    """Return a request as plain values; ``runs`` and ``looks`` hold the keys of each row's jobs, ``original`` and ``retrained`` first."""
    from expunge.bench.pools import Filled
    from expunge.bench.record import Found
    from expunge.bench.request import inspected, plays_games

    work = request.workplace()
    asked, keys = work.experiment.evaluate, Found(number, {}, Filled()).keys(request)
    looks = {run: job for job, (run, _) in inspected(number, request).items()}
    games = plays_games(work) and work.split.kind != "class"
    return {
        "title": request.title,
        "tree": work.experiment.lasting(),
        "rows": [_row(request, row) for row in request.rows],
        "runs": keys,
        "looks": {label: [looks[key] for key in held if key in looks] for label, held in keys.items()},
        "split": work.split.fingerprint,
        "tier": asked.tier,
        "pools": bool(asked.base_models or games and (asked.shadow_models or asked.swap_models)),
    }


def _row(request: "Request", row: "Row") -> Plain:
    tree = request.workplace(row).experiment.lasting()
    return {"label": row.label, "method": tree["method"], "addons": tree["addons"], "unlearning_seed": row.unlearning_seed}


def _identity(plan: Plain) -> str:
    """Return what two drivers share that make the same: everything but where and how it is computed, and the program."""
    from expunge.bench.compare import WHERE
    from expunge.pools.workplace import code_fingerprint

    def lasting(tree: Plain) -> Plain:
        evaluate = {key: value for key, value in tree["evaluate"].items() if key not in WHERE}
        return {**{key: value for key, value in tree.items() if key != "out"}, "evaluate": evaluate}

    asked = [[request["title"], lasting(request["tree"]), request["rows"], request["split"]] for request in plan["requests"]]
    code = code_fingerprint("engine", "models", "data", "training", "methods", "addons", "pools", "representation", "bench", "metrics")
    return fingerprint([asked, code])


def _tidy(plans: Path, identity: str) -> None:
    """Take away the plans of a comparison whose drivers are surely dead, or have finished; and those of others that are old."""
    for folder in plans.glob("*-*") if runs.writes() else ():
        with contextlib.suppress(OSError):  # another driver takes it away
            own = folder.name.startswith(f"{identity}-") and (folder / PLAN).is_file()
            if (own or _is_old(folder)) and locks.is_held(folder) is False:
                shutil.rmtree(folder, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    """Return whether nothing has happened in the folder of a plan for long; a plan that was never written counts too."""
    changed = (folder / ENDED if (folder / ENDED).is_file() else folder).stat().st_mtime
    return time.time() - changed > KEPT_SECONDS
