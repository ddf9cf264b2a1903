"""A stream of requests -> a table for the terminal, CSV, a section of HTML with its curves, and a page of its own.

`fragment` and `figures` are for whoever has a page already: the fragment holds a ``<div id=...>`` for each figure, and a figure is what
``Plotly.newPlot(id, data, layout)`` takes.
"""

import csv as csv_module
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.report import html
from expunge.report.columns import MARKS, percent, ruling, side
from expunge.report.numerals import typeset
from expunge.report.terminal import audit_line, metric_line, plain
from expunge.runs import atomic_write

if TYPE_CHECKING:
    from rich.console import RenderableType

Plain = dict[str, Any]

COLUMNS = (
    ("UA, new", "new", "unlearning_accuracy"),
    ("UA, earlier", "earlier", "unlearning_accuracy"),
    ("AUC, new", "new", "loss_auc"),
    ("AUC, earlier", "earlier", "loss_auc"),
    ("RA", "all", "retain_accuracy"),
    ("TA", "all", "test_accuracy"),
    ("JS", "all", "jensen_shannon"),
    ("avg. gap", "all", "average_gap"),
)
"""Head of a column, scope, metric."""

CURVES = (
    ("UA on the newly forgotten examples", "new", "unlearning_accuracy"),
    ("UA on the earlier forgotten examples", "earlier", "unlearning_accuracy"),
    ("loss AUC on the newly forgotten examples", "new", "loss_auc"),
    ("loss AUC on the earlier forgotten examples", "earlier", "loss_auc"),
    ("RA", "all", "retain_accuracy"),
    ("TA", "all", "test_accuracy"),
    ("JS to the retrained model", "all", "jensen_shannon"),
    ("average gap", "all", "average_gap"),
)
"""Title of a curve, scope, metric."""

COLORS = ("#1f5f94", "#a8400b", "#5a7d2a", "#7a4f9a", "#8a6d1d", "#2a7d74", "#9a3f68", "#555b66")
"""Of the methods, in their order; distinct for readers who see few colours, and each with a marker of its own."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "pentagon")

LEVEL = 0.05
SCOPES = {
    "all": "all forgotten so far",
    "new": "the newly forgotten examples",
    "earlier": "the earlier forgotten examples",
}


def table(record: Plain) -> "RenderableType":
    """Return what `rich` prints: for each method a line after every request, with the retrained models below it, and a verdict."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(f"{record['title']}: {asked(record)}", style="bold"), Text("")]
    for label in record["rows"]:
        parts += [_grid(record, label), *(Text(line) for line in _notes(record, label)), Text("")]
    retrained = record["request"]["retrained"]
    legend = f"± is the 95 % interval over {record['request']['seeds']} seeds; ▲ above, ▼ below the band of {retrained} retrained models"
    return Group(*parts, Text(f"{legend}, which stands below each line.", style="dim"))


def asked(record: Plain) -> str:
    """Return in words what was asked."""
    request = record["request"]
    sizes = request["requests"]
    each = f"of {sizes[0]}" if min(sizes) == max(sizes) else f"of {min(sizes)} to {max(sizes)}"
    given = "its own examples" if request["splits"] == "fresh" else "the examples of all requests so far"
    return (
        f"{len(sizes)} requests {each} of {request['examples']:,} training examples, one after another; each starts from the model of the "
        f"one before and is given {given}."
    )


def _grid(record: Plain, label: str) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, title=Text(label, style="bold"), title_justify="left", pad_edge=False, padding=(0, 1))
    for head in ("request", *(f"{head}{_unit(record, scope, name)}" for head, scope, name in COLUMNS), "time so far"):
        grid.add_column(Text(head), justify="left" if head == "request" else "right", no_wrap=True)
    for step in record["steps"]:
        row = _row(step["tables"]["all"], label)
        head = f"{ruling(row).mark} {step['number']} (n = {step['so_far']})"
        if not row["cells"]:
            grid.add_row(Text(head), Text(row["status"], style="red"), *[Text("–")] * (len(COLUMNS) - 1), Text("–"))
            continue
        cells = [_text(step, label, scope, name) for _, scope, name in COLUMNS]
        cost = (step["cost"].get(label) or {}).get("seconds_ratio")
        grid.add_row(Text(head), *cells, Text(percent(cost)))
        grid.add_row(
            Text("  retrained", style="dim"), *(Text(_band(step, scope, name), style="dim") for _, scope, name in COLUMNS), Text("")
        )
    return grid


def _unit(record: Plain, scope: str, name: str) -> str:
    heads = [step["tables"][scope]["metrics"].get(name) for step in record["steps"] if scope in step["tables"]]
    unit = next((head["unit"] for head in heads if head), "")
    return f" {unit}" if unit else ""


def _text(step: Plain, label: str, scope: str, name: str) -> Any:
    from rich.text import Text

    cell = _cell(step, label, scope, name)
    if cell is None:
        return Text("–")
    half = cell["interval"] and (cell["interval"]["high"] - cell["interval"]["low"]) / 2
    where = side(cell)
    spread = f"±{_number(half, cell['unit'])}" if half is not None else ""
    text = f"{_number(cell['value'], cell['unit'])}{spread}{MARKS[where] or ' '}"
    return Text(text, style="" if where in ("inside", "unjudged") else "red")


def _band(step: Plain, scope: str, name: str) -> str:
    head = step["tables"].get(scope, {}).get("metrics", {}).get(name)
    if head is None or head["band"] is None:
        return "–"
    return f"{_number(head['band']['low'], head['unit'])}–{_number(head['band']['high'], head['unit'])} "


def _number(value: float, unit: str) -> str:
    return typeset(f"{value:.1f}" if unit == "%" else f"{value:.3f}")


def _cell(step: Plain, label: str, scope: str, name: str) -> Plain | None:
    held = step["tables"].get(scope)
    return None if held is None else _row(held, label)["cells"].get(name)


def _row(held: Plain, label: str) -> Plain:
    return next(row for row in held["rows"] if row["name"] == label)


def _notes(record: Plain, label: str) -> list[str]:
    """Return the verdict over all requests, and what grows with each of them."""
    row = record["rows"][label]
    grows = [words for key, trend in row["trends"].items() if (words := _trend(record, key, trend))]
    lines = [f"{label}: {row['verdict']}"]
    if grows:
        lines.append(f"{label}: distance to retraining changes with each request: {'; '.join(grows)}")
    elif row["trends"]:
        count = len(row["trends"])
        lines.append(f"{label}: no metric's distance to retraining changes from request to request beyond chance over {count} slopes")
    return lines


def _trend(record: Plain, key: str, trend: Plain) -> str:
    """Return a trend in words; empty where chance over all trends of the row explains it."""
    if trend["p_holm"] >= LEVEL:
        return ""
    scope, _, name = key.partition("/")
    heads = (step["tables"][scope]["metrics"].get(name) for step in record["steps"] if scope in step["tables"])
    head = next(head for head in heads if head)
    slope = _number(trend["per_request"], head["unit"])
    sign = "+" if trend["per_request"] > 0 else ""
    spread = f"{_number(trend['low'], head['unit'])} to {_number(trend['high'], head['unit'])}"
    return f"{head['label']} ({SCOPES[scope]}) {sign}{slope} a request ({spread})"


# CSV

FIELDS = (
    "request",
    "forgotten",
    "scope",
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
    "band_low",
    "band_high",
    "p_value",
    "in_band",
    "n",
    "per_seed",
    "reason",
    "kind",
)
"""One line for each request, scope, row and metric; ``kind`` is metric, audit or cost."""


def csv(record: Plain) -> str:
    """Return everything as CSV with full precision; a row that gave no model has one line for its request, with the reason."""
    text = io.StringIO()
    writer = csv_module.DictWriter(text, FIELDS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for step in record["steps"]:
        known = {"request": step["number"], "forgotten": step["so_far"]}
        for scope, held in step["tables"].items():
            for row in held["rows"]:
                about = {key: row[key] or "" for key in ("role", "status", "reason")}
                lines = list(_metric_lines(row, held["metrics"]))
                writer.writerows({**known, "scope": scope, "row": row["name"], **about, **line} for line in lines or [{}])
        writer.writerows({**known, "scope": "all", **line} for line in _audit_lines(step))
        writer.writerows({**known, "scope": "all", **line} for line in _cost_lines(step))
    return text.getvalue()


def _metric_lines(row: Plain, heads: Plain) -> Iterator[Plain]:
    for name, cell in row["cells"].items():
        yield metric_line(name, cell, heads[name])


def _audit_lines(step: Plain) -> Iterator[Plain]:
    for name, head in step["audits"].get("audits", {}).items():
        for label, cell in head["rows"].items():
            yield {"row": label, **audit_line(name, cell, head)}


def _cost_lines(step: Plain) -> Iterator[Plain]:
    for label, cost in step["cost"].items():
        for name, value in (cost or {}).items():
            yield {"kind": "cost", "row": label, "metric": name, "label": f"{name.replace('_', ' ')} so far", "value": plain(value)}


# HTML


def figures(record: Plain, prefix: str = "drift") -> list[Plain]:
    """Return the curves as ``{id, title, data, layout}``: each metric after every request, with intervals and the retrained band."""
    found = []
    for number, (title, scope, name) in enumerate(CURVES):
        steps = [step for step in record["steps"] if name in step["tables"].get(scope, {}).get("metrics", {})]
        if steps:
            found.append(_figure(record, steps, scope, name, f"{prefix}-{number}", title))
    return found + _cost_figure(record, prefix)


def _figure(record: Plain, steps: list[Plain], scope: str, name: str, identity: str, title: str) -> Plain:
    numbers = [step["number"] for step in steps]
    heads = [step["tables"][scope]["metrics"][name] for step in steps]
    data = [_method_curve(steps, label, position, scope, name) for position, label in enumerate(record["rows"])]
    bands = [head["band"] for head in heads]
    if all(bands):
        edges = [[band[end] for band in bands] for end in ("low", "high")]
        data.insert(0, _band_area(numbers, edges))
    unit = heads[0]["unit"]
    return {"id": identity, "title": title, "data": data, "layout": _layout(numbers, f"{title}{f' ({unit})' if unit else ''}")}


def _method_curve(steps: list[Plain], label: str, position: int, scope: str, name: str) -> Plain:
    cells = [(step["number"], _cell(step, label, scope, name)) for step in steps]
    kept = [(number, cell) for number, cell in cells if cell is not None]
    halves = [cell["interval"]["high"] - cell["value"] if cell["interval"] else None for _, cell in kept]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": [number for number, _ in kept],
        "y": [cell["value"] for _, cell in kept],
        "error_y": {"type": "data", "array": halves, "visible": any(half is not None for half in halves), "thickness": 1.2, "width": 3},
        "line": {"color": COLORS[position % len(COLORS)], "width": 2},
        "marker": {"symbol": SYMBOLS[position % len(SYMBOLS)], "size": 8},
        "hovertemplate": "%{y:.4g} after request %{x}<extra>" + label.replace("<", "&lt;") + "</extra>",
    }


def _band_area(numbers: list[int], edges: list[list[float]]) -> Plain:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "retrained models",
        "x": [*numbers, *reversed(numbers)],
        "y": [*edges[0], *reversed(edges[1])],
        "fill": "toself",
        "fillcolor": "rgba(130,130,130,0.28)",
        "line": {"width": 6 if len(numbers) == 1 else 0, "color": "rgba(130,130,130,0.28)"},
        "hoverinfo": "skip",
    }


def _cost_figure(record: Plain, prefix: str) -> list[Plain]:
    data = []
    for position, label in enumerate(record["rows"]):
        pairs = [(step["number"], (step["cost"].get(label) or {}).get("seconds_ratio")) for step in record["steps"]]
        kept = [(number, ratio) for number, ratio in pairs if ratio is not None]
        data.append(
            {
                **{"type": "scatter", "mode": "lines+markers", "name": label, "x": [number for number, _ in kept]},
                "y": [100 * ratio for _, ratio in kept],
                "line": {"color": COLORS[position % len(COLORS)], "width": 2},
                "marker": {"symbol": SYMBOLS[position % len(SYMBOLS)], "size": 8},
            }
        )
    if not any(curve["x"] for curve in data):
        return []
    title, numbers = "time so far", [step["number"] for step in record["steps"]]
    layout = _layout(numbers, f"{title} (% of retraining at every request)")
    return [{"id": f"{prefix}-cost", "title": title, "data": data, "layout": layout}]


def _layout(numbers: list[int], title: str) -> Plain:
    return {
        "height": 300,
        "margin": {"l": 56, "r": 12, "t": 34, "b": 44},
        "title": {"text": title, "font": {"size": 14}, "x": 0, "xanchor": "left"},
        "xaxis": {"title": {"text": "after request"}, "tickvals": numbers, "range": [min(numbers) - 0.4, max(numbers) + 0.4]},
        "yaxis": {"automargin": True},
        "legend": {"orientation": "h", "y": -0.28},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#808489"},
    }


def fragment(record: Plain, prefix: str = "drift", heading: str = "h2") -> str:
    """Return the section: what was asked, verdicts, places for the curves, and the table after every request. Text is escaped."""
    template = html.templates().get_template("drift_fragment.html.jinja")
    return str(template.render(view=_present(record, prefix), heading=heading))


def _present(record: Plain, prefix: str) -> Plain:
    return {
        "id": prefix,
        "title": record["title"],
        "asked": asked(record),
        "request": record["request"],
        "notes": [(label, *_said(record, label)) for label in record["rows"]],
        "figures": [{"id": figure["id"], "title": figure["title"]} for figure in figures(record, prefix)],
        "heads": [f"{head}{_unit(record, scope, name)}" for head, scope, name in COLUMNS],
        "tables": [{"label": label, "lines": [_line(step, label) for step in record["steps"]]} for label in record["rows"]],
        "provenance": record["provenance"],
    }


def _said(record: Plain, label: str) -> tuple[str, str, list[str]]:
    """Return the verdict's mark, the verdict, and the other notes of a method."""
    verdict, *others = [line.removeprefix(f"{label}: ") for line in _notes(record, label)]
    return ruling({"verdict": verdict}).mark, verdict, others


def _line(step: Plain, label: str) -> Plain:
    row = _row(step["tables"]["all"], label)
    cells = []
    for _, scope, name in COLUMNS:
        cell = _cell(step, label, scope, name) if row["cells"] else None
        shown = str(_text(step, label, scope, name)).strip() if cell else "–"
        where = side(cell) if cell else "unjudged"
        cells.append({"text": shown, "band": _band(step, scope, name).strip(), "side": where})
    cost = (step["cost"].get(label) or {}).get("seconds_ratio")
    return {
        "number": step["number"],
        "so_far": step["so_far"],
        "verdict": row["verdict"],
        "mark": ruling(row).mark,
        "lost": None if row["cells"] else f"{row['status']}: {row['reason']}",
        "cells": cells,
        "cost": percent(cost),
    }


def write(records: list[Plain], path: Path) -> None:
    """Write a page of about 2 MB that opens anywhere, offline; its policy forbids the browser to load anything."""
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(render(records), encoding="utf-8", newline="\n")


def render(records: list[Plain]) -> str:
    """Return the page as text."""
    script = html.with_plotly(DRAW)
    named = [(record, f"drift-{number}") for number, record in enumerate(records, 1)]
    page = html.templates().get_template("drift_page.html.jinja")
    return str(
        page.render(
            title=records[0]["title"] if len(records) == 1 else f"{len(records)} streams of requests",
            sections=[fragment(record, prefix, "h1") for record, prefix in named],
            data=html.inline_json([figure for record, prefix in named for figure in figures(record, prefix)]),
            plotly=html.packed(html.plotly()),
            script=script,
            policy=html.policy([html.plotly(), script]),
        )
    )


DRAW = """
(async () => {
  const figures = JSON.parse(document.getElementById("drift-figures").textContent);
  try { await withPlotly(); }
  catch (error) {
    for (const figure of figures) document.getElementById(figure.id).textContent = error.message;
    return;
  }
  for (const figure of figures) Plotly.newPlot(figure.id, figure.data, figure.layout, {responsive: true, displaylogo: false});
})();
"""
"""Draws what `figures` returns."""
