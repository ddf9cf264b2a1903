"""A small server for this machine alone: the runs of a folder, comparisons in progress as reports that grow, and finished reports."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from expunge.errors import BadInput
from expunge.report.watching.folder import results
from expunge.report.watching.keeper import EVERY, Keeper


class Server(ThreadingHTTPServer):
    """Serves the pages of one folder to this machine alone.

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
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise BadInput(
                "--port", f"cannot listen on port {port}: {error.strerror or error}.", "Choose another, or leave it out."
            ) from None
        self.folder, self.keeper = folder, Keeper(folder)
        self.keeper.start()

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def close(self) -> None:
        """End the server, every stream, and what is being built."""
        self.keeper.close()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers requests.

    ``/`` leads to the report of the comparison in progress or, before it has one, shows ``/runs``; ``/growing/ID`` is the report of a
    comparison in progress, ``/report/NAME`` a finished one, and ``/events`` tells what happens.
    """

    server: Server

    def do_GET(self) -> None:
        """Answer a request."""
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return self.send_error(403)  # another site's name that was made to point here
        keeper, (kind, _, name) = self.server.keeper, self.path.removeprefix("/").partition("/")
        if self.path == "/events":
            return self._stream()
        if self.path == "/favicon.ico":
            self.send_response(204)
            return self.end_headers()
        if self.path in ("/", "/runs"):
            growing = first_page(keeper.seen) if self.path == "/" else ""
            return self._lead(f"/growing/{growing}") if growing else self._send(page(keeper.seen), policy())
        if kind == "growing":
            return self._growing(name)
        known = {f"/report/{path.parent.name}": path for path in results(self.server.folder)}
        if self.path in known:
            return self._send(known[self.path].read_text(encoding="utf-8"))
        return self.send_error(404)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: the terminal shows the runs."""

    def _growing(self, identity: str) -> None:
        """Send the report of a comparison in progress; lead to the whole one where that is there."""
        one = next((one for one in self.server.keeper.seen["comparisons"] if one["id"] == identity), None)
        made = self.server.keeper.page(identity)
        if one is not None and one["result"]:
            return self._lead(f"/report/{quote(one['result'])}")
        if made is None:
            return self.send_error(404)
        return self._send(made.read_text(encoding="utf-8"))

    def _lead(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

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
        keeper, before = self.server.keeper, None
        while keeper.open:
            now = keeper.wait(before, 5 * EVERY)
            yield f"data: {json.dumps(now)}\n\n" if now is not before else ": nothing new\n\n"
            before = now


def first_page(seen: dict[str, Any]) -> str:
    """Return the comparison in progress whose report is to be shown first; empty where none has one."""
    return next((one["id"] for one in seen["comparisons"] if one["state"] == "running" and one["page"]), "")


def page(seen: dict[str, Any]) -> str:
    """Return the page about runs, which listens."""
    from expunge.report import html

    parts = {"script": html.text("static/watch.js"), "data": html.inline_json([seen])}
    style = html.text("static/style.css") + html.text("static/watch.css")
    return str(html.templates().get_template("watch.html.jinja").render(title=seen["folder"], style=style, **parts))


def policy() -> str:
    """Return what the page about runs may do: run its own script and listen to its own server."""
    from expunge.report import html

    return html.policy([html.text("static/watch.js")]) + "; connect-src 'self'"
