"""A folder of runs while they are made: on pages from a small local server, and in the terminal."""

import threading
import time
from pathlib import Path
from typing import Any

from expunge.report.watching import terminal
from expunge.report.watching.keeper import EVERY, Keeper
from expunge.report.watching.server import Server

Plain = dict[str, Any]


def watch(folder: Path, port: int = 0) -> None:
    """Serve the pages and show the runs in the terminal until the user interrupts.

    Raises:
        BadInput: see `expunge.report.watching.server.Server`.
    """
    from rich.console import Console
    from rich.live import Live

    server = Server(folder, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    console, records = Console(), _Records(server.keeper)
    try:
        if not console.is_terminal:
            print(f"page: {server.address}", flush=True)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                if console.is_terminal:
                    seen = server.keeper.seen
                    live.update(terminal.table(seen, server.address, console.height - 6, records.of(seen)), refresh=True)
                time.sleep(EVERY)
    finally:
        server.close()


class _Records:
    """The records of comparisons in progress; each is read again when its page is another."""

    def __init__(self, keeper: Keeper):
        self._keeper = keeper
        self._held: dict[str, tuple[int, list[Plain]]] = {}

    def of(self, seen: Plain) -> dict[str, list[Plain]]:
        """Return identity -> the records that the page of a comparison shows."""
        for one in seen["comparisons"]:
            if one["page"] and one["page"] != self._held.get(one["id"], (0, []))[0]:
                self._held[one["id"]] = one["page"], self._keeper.records(one["id"])
        return {identity: records for identity, (_, records) in self._held.items()}
