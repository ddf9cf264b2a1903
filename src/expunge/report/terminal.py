"""The table for the terminal, and as CSV."""

import csv as csv_module
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from expunge.report.cautions import cautions
from expunge.report.columns import MARKS, Column, columns, half_width, percent, ruling, side
from expunge.report.headline import Card, Entry, card

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

SHOWN = (
    "unlearning_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "attack_success_rate",
    "loss_auc",
    "average_gap",
    "jensen_shannon",
    "churn",
)
"""The columns of the terminal, the most important first: a narrow terminal drops them from the end."""

HEADLINE = "Told apart from retrained models"

COLORS = {"fails": "red", "open": "cyan", "none": "yellow"}


def table(record: dict[str, Any]) -> "TerminalTable":
    """Return what `rich` prints for one request: the pinned rows, the band, every method, and a verdict line for each."""
    return TerminalTable(record)


class TerminalTable:
    """A table that takes as many columns as the terminal has room for.

    Args:
        record: one request's results.
    """

    def __init__(self, record: dict[str, Any]):
        self.record = record
        found = {column.name: column for column in columns(record["table"])}
        self.columns = [found[name] for name in SHOWN if name in found]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Yield the widest table that fits, then the verdicts."""
        from rich.measure import Measurement

        free = options.update(max_width=10_000)
        for kept, spread in self._layouts():
            grid = self._grid(kept, spread)
            if Measurement.get(console, free, grid).maximum <= options.max_width:
                break
        yield grid
        yield from self._notes(kept, spread)
        yield from self._cautions()
        yield from self._verdicts()
        yield from self._headlines(console, options)

    def _layouts(self) -> Iterator[tuple[int, bool]]:
        """Yield (columns, whether to show intervals), the widest first: the last column goes before the intervals do."""
        full = len(self.columns)
        yield from ((kept, True) for kept in range(full, max(full - 2, 0), -1))
        yield from ((kept, False) for kept in range(full, 0, -1))

    def _grid(self, kept: int, spread: bool) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        title = Text(printable(self.record["title"]), style="bold")
        grid = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1))
        grid.add_column("", no_wrap=True, max_width=24, overflow="ellipsis")
        for column in self.columns[:kept]:
            grid.add_column(Text(f"{column.label} {column.unit}".rstrip()), justify="right", no_wrap=True)
        grid.add_column("time", justify="right", no_wrap=True)
        rows = self.record["table"]["rows"]
        for row in rows:
            grid.add_row(*self._cells(row, kept, spread))
            if row["role"] == "retrained":
                for texts in self._band(kept, spread):
                    grid.add_row(*(Text(text, style="dim") for text in texts))
                grid.add_section()
        return grid

    def _band(self, kept: int, spread: bool) -> list[list[str]]:
        """Return the band in one row, or in two where room is short."""
        shown = self.columns[:kept]
        if spread:
            return [["  band", *(column.band_text(column.band).replace(" to ", "–") + " " for column in shown), ""]]
        ends = {"from": "low", "to": "high"}
        return [
            [f"  band {word}", *(column.text(column.band[end]) + " " if column.band else "none " for column in shown), ""]
            for word, end in ends.items()
        ]

    def _cells(self, row: dict[str, Any], kept: int, spread: bool) -> list["Text"]:
        from rich.text import Text

        judged = ruling(row)
        cost = self.record["cost"].get(row["name"]) or {}
        name = Text(f"{judged.mark} {printable(row['name'])}", style="bold" if row["role"] != "unlearned" else "")
        if not row["cells"]:
            return [name, Text(printable(row["status"]), style="red"), *(Text("–") for _ in range(kept - 1)), Text("–")]
        cells = [_value(column, row["cells"].get(column.name), spread) for column in self.columns[:kept]]
        return [name, *cells, Text(percent(cost.get("seconds_ratio")))]

    def _notes(self, kept: int, spread: bool) -> Iterator["Text"]:
        from rich.text import Text

        held = self.record["table"]
        words = [f"± is the {100 * held['level']:.0f} % interval over {held['seeds']} seeds"] if spread and held["seeds"] > 1 else []
        words += ["▲ above, ▼ below the band of the retrained models"]
        words += ["◆ one model far from the others"] if any(side(cell) == "apart" for cell in held["rows"][1]["cells"].values()) else []
        left_out = [column.label for column in self.columns[kept:]] + ([] if spread else ["intervals"])
        narrow = f" No room for {', '.join(left_out)}: widen the terminal." if left_out else ""
        yield Text(f"{'; '.join([*words, 'time as a share of retraining'])}.{narrow}", style="dim")
        yield Text()

    def _cautions(self) -> Iterator["Text"]:
        from rich.text import Text

        rows = self.record["table"]["rows"]
        found = cautions(self.record["request"], rows)
        if ruling(rows[0]).kind == "open":
            found.append(
                "The original shows no evidence of failure either: these tests cannot see this forget set, and say nothing about any row."
            )
        for sentence in found:
            yield Text(f"! {printable(sentence)}", style="yellow")
        if found:
            yield Text()

    def _verdicts(self) -> Iterator["Text"]:
        from rich.text import Text

        for row in self.record["table"]["rows"]:
            judged = ruling(row)
            line = Text(f"{judged.mark} {printable(row['name'])} ")
            line.append(judged.word, style=f"bold {COLORS[judged.kind]}")
            yield line.append(f": {printable(_strongest(row, judged.detail))}" if judged.detail else "")

    def _headlines(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        """Yield the headline cards: one line for each row, and the whole card in words where there is one method only."""
        from rich.text import Text

        record = self.record
        cards = [card(record, row["name"]) for row in record["table"]["rows"]]
        yield Text()
        if record["audits"].get("reason"):
            yield Text(f"How well an attacker tells the models apart was not measured: {record['audits']['reason']}", style="dim")
            return
        yield from _headline(cards, console, options)
        yield Text(cards[0].power, style="dim")
        methods = [card for card in cards if card.row not in ("original", "retrained")]
        if len(methods) == 1:
            yield Text()
            yield Text(f"{printable(methods[0].row)}, in words", style="bold")
            yield from (Text(f"  {entry.sentence}") for entry in methods[0].entries)
            yield Text(f"  {_claim(methods[0])}")


def _headline(cards: list[Card], console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
    """Yield the widest grid that fits: intervals beside the numbers, below them, or left out; one line for each row where none fits."""
    from rich.measure import Measurement
    from rich.text import Text

    shown = [place for place in range(len(cards[0].entries)) if any(card.entries[place].short != "–" for card in cards)]
    for between in (" (", "\n(", None):
        grid = _headline_grid(cards, shown, between)
        if Measurement.get(console, options.update(max_width=10_000), grid).maximum <= options.max_width:
            yield grid
            return
    yield Text(HEADLINE, style="bold")
    for held in cards:
        parts = [f"{held.entries[place].label} {_short(held.entries[place])}" for place in shown]
        yield Text(f"  {printable(held.row)}: {'; '.join(parts)}")


def _headline_grid(cards: list[Card], shown: list[int], between: str | None) -> "Table":
    import textwrap

    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, title=Text(HEADLINE, style="bold"), title_justify="left", pad_edge=False, collapse_padding=True)
    grid.add_column("", no_wrap=True, max_width=24, overflow="ellipsis")
    for place in shown:
        grid.add_column(textwrap.fill(cards[0].entries[place].label, 16 if between == " (" else 10), justify="right", no_wrap=True)
    for held in cards:
        cells = [held.entries[place] for place in shown]
        texts = [Text(_short(cell, between), style="red" if cell.inside is False else "") for cell in cells]
        grid.add_row(Text(printable(held.row)), *texts)
    return grid


def _short(entry: Entry, between: str | None = " (") -> str:
    """Return a number with its mark and, after ``between``, its interval; None leaves that out. Two numbers stand in two lines likewise."""
    value, _, interval = entry.short.partition(" (")
    value = value if between == " (" else value.replace(" / ", " /\n")
    return entry.mark + value + (f"{between}{interval}" if interval and between else "")


def _claim(held: Card) -> str:
    return f"{held.sentence} Its certificate: {held.certificate}." if held.certificate else held.sentence


def _strongest(row: dict[str, Any], detail: str) -> str:
    """Return the first finding alone: one line for each row; the report has the others."""
    if row["status"] != "finished":
        return detail
    first, *others = detail.split("; ")
    return f"{first}; and more" if others else first


def _value(column: Column, cell: dict[str, Any] | None, with_spread: bool) -> "Text":
    from rich.text import Text

    if cell is None:
        return Text("–")
    where, spread = side(cell), half_width(cell)
    text = column.text(cell["value"]) + (f"±{column.text(spread)}" if with_spread and spread is not None else "")
    return Text(f"{text}{MARKS[where] or ' '}", style="" if where in ("inside", "unjudged") else "red")


def printable(text: str) -> str:
    """Return a user's text without characters that could steer the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


FIELDS = (
    "row",
    "role",
    "status",
    "metric",
    "label",
    "unit",
    "target",
    "value",
    "standard_error",
    "interval_low",
    "interval_high",
    "example_standard_error",
    "band_low",
    "band_high",
    "p_value",
    "in_band",
    "n",
    "per_seed",
    "reason",
    "kind",
    "p_holm",
)
"""Of the CSV, one line for each row and metric. ``per_seed`` holds values with a space between them, ``nan`` for a failed seed; ``kind``
is metric, audit, cost or dose. A dose line has no row: it is about a metric or an audit."""

COSTS = {"seconds": "s", "passes": "passes", "peak_memory_bytes": "bytes", "seconds_ratio": "", "passes_ratio": ""}
"""Cost -> unit; costs follow the metrics of a row."""


def csv(record: dict[str, Any]) -> str:
    """Return the table as CSV with full precision: one line for each row and metric, audit and cost, then the doses; see ``FIELDS``.

    A row without any model has one line, with its status and reason.
    """
    text = io.StringIO()
    writer = csv_module.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in record["table"]["rows"]:
        known = {"row": row["name"], "role": row["role"], "status": row["status"], "reason": row["reason"] or ""}
        measured = [*_metric_lines(row, record["table"]["metrics"]), *_audit_lines(row["name"], record["audits"])]
        lines = [*measured, *_cost_lines(record["cost"].get(row["name"]) or {})]
        writer.writerows({**known, **line} for line in lines or [{}])
    writer.writerows(_dose_lines(record.get("doses") or {}, record["table"]["metrics"] | record["audits"].get("audits", {})))
    return text.getvalue()


def _metric_lines(row: dict[str, Any], heads: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, cell in row["cells"].items():
        yield metric_line(name, cell, heads[name])


def metric_line(name: str, cell: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a CSV that say a metric of a row."""
    interval, band = cell["interval"] or {}, cell["band"] or {}
    values = {key: plain(cell[key]) for key in ("value", "standard_error", "example_standard_error", "p_value", "in_band", "n")}
    return values | {
        "kind": "metric",
        "metric": name,
        "label": cell["label"],
        "unit": cell["unit"],
        "target": head["target"],
        "interval_low": plain(interval.get("low")),
        "interval_high": plain(interval.get("high")),
        "band_low": plain(band.get("low")),
        "band_high": plain(band.get("high")),
        "per_seed": " ".join("nan" if value is None else repr(value) for value in cell["per_seed"]),
    }


def _cost_lines(cost: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, unit in COSTS.items():
        if cost.get(name) is not None:
            held = {"label": name.replace("_", " "), "unit": unit, "target": "report", "value": plain(cost[name])}
            yield {"kind": "cost", "metric": name, **held}


def _audit_lines(row: str, audits: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a line for each audit of a row; the band is where retrained models lie, and its missing end an empty field."""
    for name, head in audits.get("audits", {}).items():
        cell = head["rows"].get(row)
        if cell is None:
            continue
        yield audit_line(name, cell, head) | {"n": plain(cell.get("models"))}


def audit_line(name: str, cell: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a CSV that say an audit of a row, but for the number of models."""
    low, high = cell["interval"] or (None, None)
    values = {key: plain(cell[key]) for key in ("value", "standard_error", "p_value", "p_holm", "in_band")}
    return values | {
        "kind": "audit",
        "metric": name,
        "label": head["label"],
        "unit": head["unit"],
        "target": head["target"],
        "interval_low": plain(low),
        "interval_high": plain(high),
        "band_low": plain(head["null"]["low"]),
        "band_high": plain(head["null"]["high"]),
        "reason": cell["note"] or "",
    }


def _dose_lines(doses: dict[str, Any], heads: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each metric's and audit's rank correlation with the share left in, the smallest share noticed, and the power at each share."""
    for name, found in doses.items():
        known = {"kind": "dose", "label": heads.get(name, {}).get("label", name)}
        yield known | {"metric": f"{name}.spearman", "value": plain(found["spearman"]), "p_value": plain(found["p_value"])}
        yield known | {"metric": f"{name}.detectable", "value": plain(found["detectable"]), "reason": found["reason"] or ""}
        if among := found.get("adjusted"):
            words = f"among {among['tests']} tests"
            yield known | {"metric": f"{name}.detectable_among_all", "value": plain(among["detectable"]), "reason": words}
        for dose, power in zip(found["doses"], found["power"], strict=True):
            yield known | {"metric": f"{name}.power.{dose:g}", "value": plain(power)}


def plain(value: Any) -> str:
    """Return a value as a field of a CSV, with full precision; empty for None."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
