"""What the study of the loss surface shows."""

from typing import Any

import numpy as np

from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table

MODELS = ("original", "unlearned", "retrained")
PARTS = ("forget", "retain", "unseen")


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.surface.Surface` has found."""
    facts = [("data", found["data"]), ("method", found["method"]), ("weights", f"{found['weights']:,}")]
    facts += [(f"{name} examples", str(size)) for name, size in found["sizes"].items()]
    question = (
        "Three nets: the original, what a method made of it, and one trained without the forget set. Do the two that have forgotten lie "
        "in one valley, and how does the loss on forgotten, retained and unseen examples lie between them?"
    )
    sections = [
        Section("The plane through the three", _plane_text(found), [_plane(found), _places(found)]),
        Section("On the straight lines", _line_text(), [_lines(found)]),
        Section("Around each net", _around_text(), [_around(found), _rises(found)]),
    ]
    return Sheet(question, _findings(found), facts, sections)


def barrier(line: dict[str, Any], part: str) -> float:
    """Return how far the loss on a line rises above the straight line between its ends, in nats, at least 0."""
    share, values = np.array(line["share"]), np.array(line["losses"][part])
    inside = (share >= 0) & (share <= 1)
    ends = np.interp([0, 1], share, values)
    return float(max(0.0, (values[inside] - (ends[0] + share[inside] * (ends[1] - ends[0]))).max()))


def _findings(found: dict[str, Any]) -> list[str]:
    lengths = {name: line["length"] for name, line in found["lines"].items()}
    at = {part: dict(zip(MODELS, found["at"][part], strict=True)) for part in PARTS}
    off, way = max(found["path"]["off"]), lengths["original to unlearned"]
    lines = found["lines"]
    retain = {name: barrier(line, "retain") for name, line in lines.items()}
    rise = {name: np.mean(found["around"][name]["rises"]["0.5"]["retain"]) for name in MODELS}
    said = [
        f"Distances of the weights: original to unlearned {way:.2f}, original to retrained {lengths['original to retrained']:.2f}, "
        f"unlearned to retrained {lengths['unlearned to retrained']:.2f}. {_said_of_place(lengths, found['method'])}",
        f"Loss on the forget set: original {at['forget']['original']:.2f}, unlearned {at['forget']['unlearned']:.2f}, retrained "
        f"{at['forget']['retrained']:.2f}; on the retained data {at['retain']['original']:.3f}, {at['retain']['unlearned']:.3f} and "
        f"{at['retain']['retrained']:.3f}.",
        "Barriers of the loss on retained data on the straight lines: "
        + ", ".join(f"{name} {value:.2f}" for name, value in retain.items())
        + " nats. "
        + _said_of_barrier(retain),
        f"The way of {found['method']} leaves the plane by at most {off:.2f} of {way:.2f}, so the picture shows it truly where that is "
        "little.",
        "Half a filter's length in a random direction raises the loss on retained data by "
        + ", ".join(f"{rise[name]:.2f} ({name})" for name in MODELS)
        + " nats: the larger, the sharper the minimum.",
    ]
    return said


def _said_of_place(lengths: dict[str, float], method: str) -> str:
    if lengths["unlearned to retrained"] >= lengths["original to retrained"]:
        return f"{method} does not come nearer to the retrained weights than the original was: it forgets by another way than retraining."
    return f"{method} ends nearer to the retrained weights than the original was."


def _said_of_barrier(retain: dict[str, float]) -> str:
    value = retain["unlearned to retrained"]
    if value < 0.05:
        return "Unlearned and retrained net lie in one valley."
    return "Between the unlearned and the retrained net lies a ridge: they are two solutions, not one."


def _plane_text(found: dict[str, Any]) -> list[str]:
    return [
        "Colours and lines are the mean loss in nats, on a logarithmic scale; both axes are distances of the weights. The thin line is "
        f"the way that {found['method']} takes, seen on the plane. Where the retained data is as easy as at the three nets, one may walk "
        "without harm; a net has forgotten where the forget set is about as hard as for the retrained one.",
    ]


SCALE = [[place / 4, f"$height{place}"] for place in range(5)]
"""From calm to high; the page has a set of these colours for light and one for dark."""


def _contour(x: list[float], y: list[float], losses: Any, suffix: str, bar: dict[str, float] | None) -> dict[str, Any]:
    """Return the loss as coloured lines of equal height; colour and heights are those of log10."""
    z = np.log10(np.maximum(np.array(losses, dtype=np.float64), 1e-4))
    span = float(np.quantile(z, 0.005)), float(np.quantile(z, 0.995))
    decades, between = (0.001, 0.01, 0.1, 1, 10, 100), (0.003, 0.03, 0.3, 3, 30)
    ticks = [value for value in decades + (between if span[1] - span[0] < 3 else ()) if span[0] - 0.01 <= np.log10(value) <= span[1] + 0.01]
    scale = {"tickvals": [float(np.log10(value)) for value in ticks], "ticktext": [f"{value:g}" for value in ticks]}
    return {
        "type": "contour",
        "x": x,
        "y": y,
        "z": figures.numbers(z),
        "text": [[f"{value:.3g}" for value in row] for row in losses],
        "hovertemplate": "loss %{text}<extra></extra>",
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "colorscale": SCALE,
        "zmin": span[0],
        "zmax": span[1],
        "contours": {"start": span[0], "end": span[1], "size": (span[1] - span[0]) / 14},
        "line": {"width": 0.6, "color": "$quiet/0.6"},
        "showscale": bar is not None,
        "colorbar": {"orientation": "h", "thickness": 8, "outlinewidth": 0, "y": -0.14, "yanchor": "top", **scale, **(bar or {})},
    }


def _bar(layout: dict[str, Any], suffix: str) -> dict[str, float]:
    """Return where a panel's bar of colours lies: below it."""
    low, high = layout[f"xaxis{suffix}"]["domain"]
    return {"x": (low + high) / 2, "len": 0.8 * (high - low)}


def _plane(found: dict[str, Any]) -> Figure:
    layout, suffixes = figures.grid(1, 3, [f"loss on {part}" for part in PARTS], gap=0.035)
    data: list[dict[str, Any]] = []
    path = np.array(found["path"]["places"])
    for part, suffix in zip(PARTS, suffixes, strict=True):
        data.append(_contour(found["x"], found["y"], found["losses"][part], suffix, _bar(layout, suffix)))
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False}
        look = {"mode": "lines", "line": {"color": "$unlearned", "width": 1.5}, "hoverinfo": "skip"}
        data.append({"x": figures.numbers(path[:, 0]), "y": figures.numbers(path[:, 1])} | look | axes)
        for model in MODELS:
            x, y = found["places"][model]
            marker = {"size": 12, "color": figures.MODELS[model], "line": {"color": "$paper", "width": 2}}
            marker["symbol"] = {"original": "circle", "unlearned": "diamond", "retrained": "square"}[model]
            value = found["at"][part][MODELS.index(model)]
            dot = {"mode": "markers", "x": [x], "y": [y], "marker": marker, "name": model, "text": [f"{model}: {value:.3g}"]}
            data.append(dot | axes | {"hoverinfo": "text", "showlegend": not suffix})
        layout[f"xaxis{suffix}"] |= {"showgrid": False}
        layout[f"yaxis{suffix}"] |= {"scaleanchor": f"x{suffix}", "constrain": "domain", "showgrid": False, "showticklabels": not suffix}
    layout["legend"] = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.07, "yanchor": "bottom"}
    layout["margin"] = {"l": 40, "r": 10, "t": 56, "b": 64}
    caption = "Both axes are distances of the weights. Point anywhere for the loss there; every panel has a scale of its own."
    return Figure({"": {"data": data, "layout": layout}}, caption, height=490, ratio=0.42)


def _places(found: dict[str, Any]) -> Table:
    rows = []
    for place, model in enumerate(MODELS):
        x, y = found["places"][model]
        rows.append([model, f"{x + 0.0:.2f}, {round(y, 2) + 0.0:.2f}", *(f"{found['at'][part][place]:.3f}" for part in PARTS)])
    return Table(["net", "place on the plane", *(f"loss on {part}" for part in PARTS)], rows)


def _line_text() -> list[str]:
    return [
        "The same losses on the straight line from one net to another; 0 and 1 are the two nets. A hump in the loss on retained data "
        "between them is a barrier: the two nets solve the task in different ways.",
    ]


def _lines(found: dict[str, Any]) -> Figure:
    layout, suffixes = figures.grid(1, 3, list(found["lines"]), gap=0.05)
    data = []
    top = max(max(line["losses"][part]) for line in found["lines"].values() for part in PARTS)
    for line, suffix in zip(found["lines"].values(), suffixes, strict=True):
        for part in PARTS:
            values = [max(value, 1e-4) for value in line["losses"][part]]
            data.append(figures.line(line["share"], values, part, f"${part}", suffix, legend=not suffix, mode="lines"))
        layout[f"xaxis{suffix}"] |= {"title": {"text": f"share of the way ({line['length']:.2f} long)"}, "tickvals": [0, 0.5, 1]}
        layout[f"yaxis{suffix}"] |= {"type": "log", "range": [-3.2, float(np.log10(top)) + 0.1], "tickformat": "~g", "dtick": 1}
        layout[f"yaxis{suffix}"] |= {"showticklabels": not suffix, "title": {"text": "" if suffix else "loss in nats"}}
    layout["legend"] = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.26, "yanchor": "top"}
    layout["margin"] = {"l": 52, "r": 10, "t": 30, "b": 90}
    return Figure({"": {"data": data, "layout": layout}}, "Logarithmic scale.", height=380)


def _around_text() -> list[str]:
    return [
        "Two random directions around each net, every filter as long as the net's own (biases stay). At 1 a direction has replaced as "
        "much as there was. Flat surroundings are those in which a net may be changed without harm.",
    ]


def _around(found: dict[str, Any]) -> Figure:
    charts = {}
    for part in ("retain", "forget", "unseen"):
        layout, suffixes = figures.grid(1, 3, MODELS, gap=0.035)
        data = []
        for model, suffix in zip(MODELS, suffixes, strict=True):
            held = found["around"][model]
            data.append(_contour(held["steps"], held["steps"], held["losses"][part], suffix, _bar(layout, suffix)))
            marker = {"size": 11, "color": figures.MODELS[model], "line": {"color": "$paper", "width": 2}}
            axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False, "hoverinfo": "skip"}
            data.append({"mode": "markers", "x": [0], "y": [0], "marker": marker} | axes)
            layout[f"yaxis{suffix}"] |= {
                "scaleanchor": f"x{suffix}",
                "constrain": "domain",
                "showticklabels": not suffix,
                "showgrid": False,
            }
            layout[f"xaxis{suffix}"] |= {"showgrid": False}
        charts[part] = {"data": data, "layout": layout | {"margin": {"l": 40, "r": 10, "t": 30, "b": 64}}}
    return Figure(
        charts,
        "The same two draws for all three nets, scaled to each net's own filters; every panel has a scale of its own.",
        height=460,
        ratio=0.4,
        label="loss on",
    )


def _rises(found: dict[str, Any]) -> Table:
    rows = []
    for model in MODELS:
        row = [model]
        for share in ("0.1", "0.5"):
            for part in ("retain", "forget"):
                values = np.array(found["around"][model]["rises"][share][part])
                row.append(f"{values.mean():+.3f} ± {2.09 * values.std(ddof=1) / len(values) ** 0.5:.3f}".replace("-", "−"))
        rows.append(row)
    heads = ["net"] + [f"loss on {part} at {share} of a filter" for share in ("0.1", "0.5") for part in ("retain", "forget")]
    return Table(heads, rows, "Mean rise over 20 random directions ± half of its 95 % interval.")
