"""What the study of the stream shows."""

from typing import Any

from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table

COLORS = ("$unlearned", "$unseen", "$forget", "$class4", "$class5", "$class6", "$class7")
SHORT = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "loss_auc")
"""Metrics that are drawn together; the others can be chosen."""


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.stream.Stream` has found."""
    facts = [("data", found["data"]), ("requests", str(len(found["requests"]))), ("examples of a request", str(max(found["requests"])))]
    facts += [("methods", str(len(found["methods"]))), ("seeds", str(found["seeds"])), ("metrics", str(len(found["metrics"])))]
    question = (
        "Deletion requests come one after another and the training data is gone: a method sees the examples to forget and a few that no "
        "model was trained on. Each request starts from the model that the last one left. What adds up?"
    )
    sections = [
        Section("Four metrics", _text(), [_four(found)]),
        Section("Every metric", _every_text(), [_every(found)]),
        Section("Inside the band", _inside_text(), [_inside(found), _drift(found)]),
    ]
    return Sheet(question, _findings(found), facts, sections)


def series(found: dict[str, Any], row: str, metric: str) -> list[dict[str, Any] | None]:
    """Return the cell of a metric after each request; None where there is none."""
    held = []
    for rows in found["steps"]:
        match = next(each for each in rows if each["name"] == row)
        held.append(match["cells"].get(metric))
    return held


def judged(found: dict[str, Any], step: int, row: str) -> list[bool]:
    """Return for every judged metric after a request whether the row lies inside the retrained nets' band."""
    cells = next(each for each in found["steps"][step] if each["name"] == row)["cells"].values()
    return [cell["inside"] for cell in cells if cell["inside"] is not None]


def _findings(found: dict[str, Any]) -> list[str]:
    last = len(found["steps"]) - 1
    said = []
    best = max(found["methods"], key=lambda name: sum(judged(found, last, name)))
    for name in found["methods"]:
        row = next(each for each in found["steps"][last] if each["name"] == name)
        if row["status"] != "finished":
            said.append(f"{name}: {row['reason']}.")
            continue
        ends = {metric: (series(found, name, metric)[0], series(found, name, metric)[-1]) for metric in ("retain_accuracy", "loss_auc")}
        retain, area = ends["retain_accuracy"], ends["loss_auc"]
        inside = [f"{sum(held)} of {len(held)}" for held in (judged(found, 0, name), judged(found, last, name))]
        said.append(
            f"{name}: after the first request {inside[0]} metrics lie inside the band of retrained nets, after the last {inside[1]}. "
            f"Retain accuracy {_value(retain[0])} → {_value(retain[1])} %, AUC of the loss {_value(area[0], 3)} → {_value(area[1], 3)}."
        )
    nothing = judged(found, last, "original")
    said.append(
        f"{_said_of_sums(found)}Doing nothing keeps {sum(nothing)} of {len(nothing)} metrics inside after the last request, {best} as the "
        f"best of the methods {sum(judged(found, last, best))}: without retained data it is hard to be much better than doing nothing, and "
        "easy to be worse."
    )
    return said


def _said_of_sums(found: dict[str, Any]) -> str:
    """Name the methods that begin above doing nothing and end below it."""
    last = len(found["steps"]) - 1
    turned = [
        name
        for name in found["methods"]
        if sum(judged(found, 0, name)) > sum(judged(found, 0, "original"))
        and sum(judged(found, last, name)) < sum(judged(found, last, "original"))
    ]
    if not turned:
        return ""
    return f"Good at one request is not good at {last + 1}: {', '.join(turned)} began better than doing nothing and ended worse. "


def _value(cell: dict[str, Any] | None, digits: int = 1) -> str:
    return "–" if cell is None else f"{cell['value']:.{digits}f}"


def _text() -> list[str]:
    return [
        "After every request, on all examples that should be forgotten by then. The grey band is where retrained nets lie, which never "
        "saw any of them; the dotted line is the original, which forgets nothing. Bars are 95 % intervals over seeds.",
    ]


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (row, colour, dash) of what is drawn."""
    chosen = [(name, COLORS[place % len(COLORS)], "solid") for place, name in enumerate(found["methods"])]
    return [("original", "$original", "dot"), ("retrained", "$retrained", "dash"), *chosen]


def _panel(found: dict[str, Any], metric: str, suffix: str, legend: bool) -> list[dict[str, Any]]:
    """Return the band of retrained nets and a line for each row."""
    x = list(range(1, len(found["steps"]) + 1))
    data: list[dict[str, Any]] = []
    bands: list[Any] = [cell["band"] if cell else None for cell in series(found, next(iter(found["methods"])), metric)]
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False, "hoverinfo": "skip", "mode": "lines"}
    if all(bands):
        ring = {"x": x + x[::-1], "y": [band[1] for band in bands] + [band[0] for band in bands[::-1]]}
        data.append(ring | axes | {"fill": "toself", "fillcolor": "$quiet/0.18", "line": {"width": 0}})
    count = len(found["methods"]) + 1
    for place, (name, color, dash) in enumerate(_rows(found)):
        cells = series(found, name, metric)
        if not any(cells):
            continue
        values = [cell["value"] if cell else None for cell in cells]
        spans = [cell["interval"] if cell else None for cell in cells]
        error = figures.bars([s[0] if s else None for s in spans], values, [s[1] if s else None for s in spans])
        shift = [at + 0.05 * (place - count / 2) for at in x]
        look = {"line": {"color": color, "dash": dash, "width": 1.8}, "error_y": error, "marker": {"size": 5, "color": color}}
        data.append(figures.line(shift, values, name, color, suffix, legend=legend, hovertemplate="%{y:.3~f}", **look))
    return data


def _head(found: dict[str, Any], metric: str) -> str:
    head = found["metrics"][metric]
    return head["label"] + (f" in {head['unit']}" if head["unit"] else "")


LEGEND = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.13, "yanchor": "top"}


def _four(found: dict[str, Any]) -> Figure:
    chosen = [metric for metric in SHORT if metric in found["metrics"]]
    layout, suffixes = figures.grid(2, 2, [_head(found, metric) for metric in chosen] + [""] * (4 - len(chosen)), gap=0.08, drop=0.16)
    data = []
    for metric, suffix in zip(chosen, suffixes, strict=False):
        data += _panel(found, metric, suffix, legend=not suffix)
        layout[f"xaxis{suffix}"] |= {"dtick": 1, "title": {"text": "requests served"} if suffix in ("3", "4") else {"text": ""}}
    layout["legend"] = LEGEND
    layout["margin"] = {"l": 46, "r": 10, "t": 30, "b": 90}
    return Figure(
        {"": {"data": data, "layout": layout}}, "Retrained nets are retrained for every request, without all requests so far.", height=640
    )


def _every_text() -> list[str]:
    return ["The same for each metric of an evaluation. Click a name below the chart to hide its line."]


def _every(found: dict[str, Any]) -> Figure:
    charts = {}
    for metric in found["metrics"]:
        layout, _ = figures.grid(1, 1, [""])
        layout["xaxis"] |= {"dtick": 1, "title": {"text": "requests served"}}
        layout["yaxis"] |= {"title": {"text": _head(found, metric)}}
        layout["legend"] = LEGEND | {"y": -0.2}
        layout["margin"] = {"l": 60, "r": 10, "t": 14, "b": 80}
        charts[_head(found, metric)] = {"data": _panel(found, metric, "", True), "layout": layout}
    return Figure(charts, "Grey: where retrained nets lie.", height=420, label="metric")


def _inside_text() -> list[str]:
    return [
        "The share of metrics in which a row cannot be told from retrained nets of this many seeds. It counts damage and remembrance "
        "alike, and metrics that say the same thing count as often as they are there.",
    ]


def _inside(found: dict[str, Any]) -> Figure:
    x = list(range(1, len(found["steps"]) + 1))
    layout, _ = figures.grid(1, 1, [""])
    data = []
    for name, color, dash in _rows(found):
        shares = []
        for step in range(len(x)):
            held = judged(found, step, name)
            shares.append(sum(held) / len(held) if held else None)
        data.append(figures.line(x, shares, name, color, line={"color": color, "dash": dash, "width": 2}))
    layout["xaxis"] |= {"dtick": 1, "title": {"text": "requests served"}}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [-0.03, 1.05], "title": {"text": "metrics inside the band"}}
    layout["legend"] = LEGEND | {"y": -0.2}
    layout["margin"] = {"l": 60, "r": 10, "t": 14, "b": 80}
    return Figure({"": {"data": data, "layout": layout}}, "Retrained nets themselves are each judged by the others.", height=380)


def _drift(found: dict[str, Any]) -> Table:
    rows = []
    for metric in found["metrics"]:
        row = [_head(found, metric)]
        for name, _, _ in _rows(found):
            cells = series(found, name, metric)
            row.append(f"{_value(cells[0], 2)} → {_value(cells[-1], 2)}")
        rows.append(row)
    return Table(["metric: first → last request", *(name for name, _, _ in _rows(found))], rows)
