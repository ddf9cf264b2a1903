"""A folder of runs while they are made: what each does now, on a page from a small local server and in the terminal."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import runs
from expunge.errors import BadInput
from expunge.report.figures import epochs

if TYPE_CHECKING:
    from rich.console import Group

EVERY = 1.0
"""Seconds between two looks at the folder."""
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
    results = sorted(_results(folder), key=lambda path: path.stat().st_mtime, reverse=True)
    return {
        "folder": folder.name,
        "counts": counts,
        "runs": [asdict(run) for run in found[:SHOWN]],
        "results": [p.parent.name for p in results],
    }


def _results(folder: Path) -> list[Path]:
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


class Server(ThreadingHTTPServer):
    """Serves the page of one folder to this machine alone.

    Args:
        folder: of the runs.
        port: to listen on; any free one if 0.

    Raises:
        BadInput: no such folder, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0):
        if not folder.is_dir():
            raise BadInput(str(folder), "no such folder.", "Give the folder that out= names, such as runs.")
        self.folder, self.open = folder, True
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise BadInput(
                "--port", f"cannot listen on port {port}: {error.strerror or error}.", "Choose another, or leave it out."
            ) from None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def close(self) -> None:
        """End the server and every stream."""
        self.open = False
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers ``/`` with the page, ``/events`` with what happens, and ``/report/NAME`` with a finished result."""

    server: Server

    def do_GET(self) -> None:
        """Answer a request."""
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return self.send_error(403)  # another site's name that was made to point here
        if self.path == "/":
            return self._send(page(look(self.server.folder)), policy())
        if self.path == "/events":
            return self._stream()
        if self.path == "/favicon.ico":
            self.send_response(204)
            return self.end_headers()
        known = {f"/report/{path.parent.name}": path for path in _results(self.server.folder)}
        if self.path in known:
            return self._send(known[self.path].read_text(encoding="utf-8"))
        return self.send_error(404)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: the terminal shows the runs."""

    def _send(self, text: str, policy: str | None = None) -> None:
        content = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            for text in self._changes():
                self.wfile.write(text.encode())
                self.wfile.flush()
        except OSError:
            return  # the reader has gone

    def _changes(self) -> Iterator[str]:
        """Yield what the folder holds whenever that is something else, and a sign of life otherwise."""
        before = ""
        while self.server.open:
            now = json.dumps(look(self.server.folder))
            yield f"data: {now}\n\n" if now != before else ": nothing new\n\n"
            before = now
            time.sleep(EVERY)


def page(seen: dict[str, Any]) -> str:
    """Return the page that listens."""
    from expunge.report import html

    parts = {"style": html.text("static/style.css"), "script": html.text("static/watch.js"), "data": html.inline_json([seen])}
    return str(html.templates().get_template("watch.html.jinja").render(title=seen["folder"], **parts))


def policy() -> str:
    """Return what the page may do: run its own script and listen to its own server."""
    from expunge.report import html

    return html.policy([html.text("static/watch.js")]) + "; connect-src 'self'"


def table(seen: dict[str, Any], address: str, rows: int = 20) -> "Group":
    """Return what the terminal shows: the counts, and the runs that are made now and were made last."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from expunge.report.page import duration
    from expunge.report.terminal import printable

    colors = {"running": "cyan", "ok": "green", "silent": "yellow"}
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "state", "phase", "time", "losses"):
        grid.add_column(column, no_wrap=True, overflow="ellipsis")
    for run in seen["runs"][: max(1, rows)]:
        losses = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in run["losses"].items() if points and points[-1][1] is not None)
        state = Text(run["state"], style=colors.get(run["state"], "red"))
        grid.add_row(Text(printable(run["title"])), state, Text(printable(run["phase"])), duration(run["seconds"]), Text(printable(losses)))
    counts = ", ".join(f"{count} {state}" for state, count in seen["counts"].items()) or "no run yet"
    lines = [Text(f"{seen['folder']}: {counts}", style="bold"), Text(f"page: {address}")]
    lines += [Text(f"result: {name}/report.html") for name in seen["results"][:3]]
    return Group(*lines, grid)


def watch(folder: Path, port: int = 0) -> None:
    """Serve the page and show the runs in the terminal until the user interrupts.

    Raises:
        BadInput: see `Server`.
    """
    import threading

    from rich.console import Console
    from rich.live import Live

    server = Server(folder, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    console = Console()
    try:
        if not console.is_terminal:
            print(f"page: {server.address}", flush=True)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                if console.is_terminal:
                    live.update(table(look(folder), server.address, console.height - 6), refresh=True)
                time.sleep(EVERY)
    finally:
        server.close()
