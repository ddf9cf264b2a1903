"""Runs, comparisons in progress and the head of their leaderboards, for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

COLORS = {"running": "cyan", "ok": "green", "silent": "yellow"}
STATES = {"running": "in progress", "stopped": "stopped, nobody works on it"}
MOST_ROWS = 6
"""Of a leaderboard; the page has them all."""
MOST_COLUMNS = 4
Plain = dict[str, Any]


def table(seen: Plain, address: str, rows: int = 20, records: Mapping[str, Sequence[Plain]] | None = None) -> "Group":
    """Return what the terminal shows: the runs that are made now and were made last, and what they give so far.

    Args:
        seen: what `expunge.report.watching.keeper.Keeper` sees.
        address: of the page.
        rows: lines that there is room for.
        records: identity of a comparison -> the records that its page shows.
    """
    from rich.console import Group
    from rich.text import Text

    below = [piece for one in seen["comparisons"] for piece in _comparison(one, (records or {}).get(one["id"], ()))]
    counts = ", ".join(f"{count} {state}" for state, count in seen["counts"].items()) or "no run yet"
    lines = [Text(f"{seen['folder']}: {counts}", style="bold"), Text(f"page: {address}")]
    lines += [Text(f"result: {name}/report.html") for name in seen["results"][:3]]
    taken = sum(getattr(piece, "row_count", 0) + 1 for piece in below)
    return Group(*lines, _runs(seen["runs"][: max(3, rows - taken)]), *below)


def _runs(runs: Sequence[Plain]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from expunge.report.page import duration
    from expunge.report.terminal import printable

    grid = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column, most in (("run", 24), ("state", None), ("phase", 28), ("time", None)):
        grid.add_column(column, no_wrap=True, overflow="ellipsis", max_width=most)
    grid.add_column("losses", no_wrap=True, overflow="ellipsis", ratio=1)
    for run in runs:
        losses = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in run["losses"].items() if points and points[-1][1] is not None)
        state = Text(run["state"], style=COLORS.get(run["state"], "red"))
        grid.add_row(Text(printable(run["title"])), state, Text(printable(run["phase"])), duration(run["seconds"]), Text(printable(losses)))
    return grid


def _comparison(one: Plain, records: Sequence[Plain]) -> Iterator["Table | Text"]:
    """Yield how far a comparison is, and the head of the leaderboard of each of its requests."""
    from rich.text import Text

    from expunge.report.terminal import printable
    from expunge.report.watching.growth import counts

    if one["state"] not in STATES:
        return
    awaited = "; rows that are not finished are not judged" if one["state"] == "running" else ""
    yield Text(f"{STATES[one['state']]}: {counts(one)}{awaited}", style="bold")
    yield from (
        Text(printable(f"  {request['title']}: {request['lost']}"), style="yellow") for request in one["requests"] if request["lost"]
    )
    for record in records if one["state"] == "running" else ():
        yield _leaders(record)


def _leaders(record: Plain) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from expunge.report import ranks
    from expunge.report.columns import MARKS, columns, percent, ruling, side
    from expunge.report.terminal import SHOWN, printable

    found = {column.name: column for column in columns(record["table"])}
    chosen = [found[name] for name in SHOWN if name in found][:MOST_COLUMNS]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in (record["title"], "", *(column.label for column in chosen), "time"):
        grid.add_column(Text(printable(name)), no_wrap=True, overflow="ellipsis")
    places = ranks.mean_ranks(record["table"])
    rows = [row for row in record["table"]["rows"] if row["role"] == "unlearned"]
    rows.sort(key=lambda row: places.get(row["name"], len(rows)))
    for row in rows[:MOST_ROWS]:
        judged, held = ruling(row), [(column, row["cells"].get(column.name)) for column in chosen]
        cells = ["–" if cell is None else f"{column.text(cell['value'])}{MARKS[side(cell)]}" for column, cell in held]
        cost = (record["cost"].get(row["name"]) or {}).get("seconds_ratio")
        grid.add_row(Text(f"{judged.mark} {printable(row['name'])}"), judged.word, *cells, percent(cost))
    if len(rows) > MOST_ROWS:
        grid.add_row(f"and {len(rows) - MOST_ROWS} more, on the page")
    return grid
