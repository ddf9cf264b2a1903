"""Jobs that worker processes of the executor's tests can import fast."""

import os
import signal
import threading
import time
from pathlib import Path

from expunge.errors import BadInput
from expunge.pools import locks


def square(number, results, report):
    report({"event": "epoch", "title": f"square {number}", "process": os.getpid()})
    return number * number


def add(results, report):
    return sum(results.values())


def fail(how, results, report):
    raise {
        "memory": MemoryError("no room"),
        "input": BadInput("addons=lora", "moves nothing."),
        "out": BadInput("out", "disk full."),
        "odd": Unsendable(),
    }[how]


class Unsendable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def die(where, times, results, report):
    """Kill this process the first few times, and tell how often it was called."""
    with open(where, "a") as log:
        log.write("x")
    count = len(Path(where).read_text())
    if count <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def overlap(folder, seconds, results, report):
    """Note in a file when this job began and ended."""
    began = time.monotonic()
    time.sleep(seconds)
    Path(folder, str(began)).write_text(str(time.monotonic()))
    return began


def locked(folder, results, report):
    with locks.hold(Path(folder)):
        return "made"


def stay(results, report):
    report({"event": "here", "process": os.getpid()})
    time.sleep(60)


def note(folder, key, seconds, results, report):
    """Append to a file when this job begins and when it ends, and tell."""
    report({"event": "begun", "title": key, "machine": os.environ.get("RAY_NODE_ID", "")})
    for word in ("start", "end"):
        with open(Path(folder, key), "a") as log:
            log.write(f"{word}\n")
        time.sleep(seconds if word == "start" else 0)
    return key
