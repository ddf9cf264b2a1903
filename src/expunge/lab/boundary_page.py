"""What the study of boundaries shows."""

from typing import Any

import numpy as np

from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table
from expunge.lab.plane import unpacked

MODELS = ("original", "unlearned", "retrained")


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.boundary.Boundary` has found."""
    points, labels = np.array(found["points"]), np.array(found["labels"])
    estimated = "estimated_moved" in found["nets"][0]["influence"]
    sections = [
        Section("Before and after", _before_text(found), [_pictures(found, points, labels), _table(found)]),
        Section("On the way", [_way_text(found)], [_film(found, points, labels)]),
        Section("What each point does", _influence_text(estimated), [_influence(found, points, labels)]),
    ]
    if estimated:
        sections.append(Section("Can it be foretold?", _estimate_text(), [_estimates(found), _correlations(found)]))
    facts = [
        ("points", f"{len(points)} of {found['data']}"),
        ("classes", str(len(found["class_names"]))),
        ("forgotten", f"{len(found['forgotten'])} points"),
        ("method", found["method"]),
        ("nets", str(len(found["nets"]))),
    ]
    question = (
        "How much of a decision boundary is owed to a single training point, does that grow with the net, and does a method that forgets "
        "points leave the boundary where training without them would have put it?"
    )
    return Sheet(question, _findings(found, points, labels), facts, sections)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.001 or value == 0 else "<0.1 %"


def _findings(found: dict[str, Any], points: np.ndarray, labels: np.ndarray) -> list[str]:
    nets = found["nets"]
    small, large = (min if first else max for first in (True, False))
    least, most = small(nets, key=lambda net: net["parameters"]), large(nets, key=lambda net: net["parameters"])
    said = [_said_of_points(least, most, len(points))]
    said.append(_said_of_place(nets, points, labels))
    for net in (most,):
        said.append(_said_of_forgetting(net, found["method"]))
    ranks = [(net["name"], net["influence"].get("distance_rank")) for net in nets]
    held = [(name, rank["value"]) for name, rank in ranks if rank]
    if held:
        best, worst = max(held, key=lambda pair: pair[1]), min(held, key=lambda pair: pair[1])
        said.append(
            f"The first-order estimate ranks the points' influence on the weights best for {best[0]} (rank correlation "
            f"{best[1]:.2f}) and worst for {worst[0]} ({_signed(worst[1])}): it looks no farther than the slope of the loss at the "
            "trained weights, and a net of several layers may settle elsewhere when one point is missing."
        )
    return said


def _said_of_points(least: dict[str, Any], most: dict[str, Any], count: int) -> str:
    parts = []
    for net in (least, most):
        moved = np.array(net["influence"]["moved"])
        parts.append(f"{_percent(moved.mean())} on average and {_percent(moved.max())} at most in the net of {net['parameters']} weights")
    return f"Leaving out one of {count} points moves the class of this share of the plane: {parts[0]}; {parts[1]}."


def _said_of_place(nets: list[dict[str, Any]], points: np.ndarray, labels: np.ndarray) -> str:
    near = -_other_class(points, labels)
    places = [_correlation(near, net["influence"]["distance"]) for net in nets]
    losses = [_correlation(net["influence"]["own_loss"], net["influence"]["distance"]) for net in nets]
    return (
        "Which points weigh most? Rank correlation of the change of the weights with nearness to the other class: "
        f"{_span(places)} over the nets; with the point's own loss in the net that has all points: {_span(losses)}."
    )


def _correlation(first: Any, second: Any) -> float:
    return float(np.corrcoef(_ranks(np.asarray(first)), _ranks(np.asarray(second)))[0, 1])


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _span(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}".replace("-", "−")


def _said_of_forgetting(net: dict[str, Any], method: str) -> str:
    moved, chance = net["moved"], max(net["chance"])
    before, after = moved["original"], moved["unlearned"]
    verdict = "closer to" if after < before else "farther from" if after > before else "no closer to"
    losses = {name: net["losses"][name]["forget"] for name in MODELS}
    highest = max(losses["retrained"], *net["chance_losses"])
    words = (
        f"In the largest net {method} ends {verdict} the retrained boundary than the original was: {_percent(after)} of the plane differs, "
        f"before it was {_percent(before)}; retrained nets of other seeds differ by up to {_percent(chance)}. "
        f"Loss on the forgotten points: original {losses['original']:.2g}, unlearned {losses['unlearned']:.2g}, retrained "
        f"{losses['retrained']:.2g}."
    )
    if losses["unlearned"] > 1.5 * highest:
        return words + " The boundary alone would look like success; the loss shows that the method has gone too far."
    return words


def _ranks(values: np.ndarray) -> np.ndarray:
    from expunge.attacks.roc import midranks

    return midranks(values)


def _other_class(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the distance of each point to the nearest point of another class, ``[n]``."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    apart[labels[:, None] == labels[None]] = np.inf
    return apart.min(1)


def _before_text(found: dict[str, Any]) -> list[str]:
    return [
        "The plane in the colours of the answers, stronger where the net is surer; the line is the boundary. The ringed points are to "
        f"be forgotten: once by {found['method']}, once by training without them from the same initial weights. A perfect method would "
        "turn the first picture into the third.",
    ]


def _pictures(found: dict[str, Any], points: np.ndarray, labels: np.ndarray) -> Figure:
    charts = {}
    gone = np.array(found["forgotten"])
    for net in reversed(found["nets"]):
        titles = [f"{name}" for name in MODELS]
        layout, suffixes = figures.grid(1, 3, titles, gap=0.02)
        figures.plane_axes(layout, suffixes, found["low"], found["high"])
        layout["margin"] = _thin() | {"b": 28}
        layout["legend"] = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yanchor": "top"}
        data: list[dict[str, Any]] = []
        for name, suffix in zip(MODELS, suffixes, strict=True):
            data += figures.field(unpacked(net["pictures"][name]), found["low"], found["high"], len(found["class_names"]), suffix)
            shown = np.setdiff1d(np.arange(len(points)), gone) if name == "retrained" else np.arange(len(points))
            data += [figures.dots(points[shown], labels[shown], suffix), figures.rings(points[gone], suffix)]
        charts[f"{net['name']} ({net['parameters']} weights)"] = {
            "data": data + figures.class_legend(found["class_names"]),
            "layout": layout,
        }
    caption = "The retrained net never saw the ringed points, so they are not drawn there. Choose another net above the picture."
    return Figure(charts, caption, height=450, ratio=0.39, label="net")


def _thin() -> dict[str, int]:
    return {"l": 6, "r": 6, "t": 28, "b": 6}


def _table(found: dict[str, Any]) -> Table:
    heads = ["net", "weights", "unlike retrained: original", "unlearned", "by chance"]
    heads += [f"{start}{name}" for start, names in (("loss on forgotten: ", MODELS), ("unseen right: ", MODELS)) for name in names]
    rows = []
    for net in found["nets"]:
        losses = net["losses"]
        row = [net["name"], str(net["parameters"]), *(_percent(net["moved"][name]) for name in MODELS[:2]), _percent(max(net["chance"]))]
        row += [f"{losses[name]['forget']:.3f}" for name in MODELS]
        row += [f"{100 * losses[name]['accuracy']:.1f} %" for name in MODELS]
        rows.append(row)
    caption = (
        "Unlike retrained: the share of the plane that has another class. By chance: the largest share by which retrained nets of other "
        "seeds differ from the one that is compared with."
    )
    return Table(heads, rows, caption)


def _way_text(found: dict[str, Any]) -> str:
    return (
        f"The same plane after every epoch of {found['method']}. Right: the share of the plane that is unlike the retrained net and "
        "unlike the original. A good method brings the first line down to the grey band, which is what another seed does; where it "
        "rises again, the method has gone too far."
    )


def _film(found: dict[str, Any], points: np.ndarray, labels: np.ndarray) -> Figure:
    charts = {}
    gone = np.array(found["forgotten"])
    for net in reversed(found["nets"]):
        film = net["film"]
        layout, suffixes = figures.grid(1, 2, ["the plane", "share of the plane that is unlike"], gap=0.1)
        layout["xaxis"]["domain"], layout["xaxis2"]["domain"] = [0, 0.42], [0.52, 1]
        layout["annotations"][1]["x"] = 0.52
        figures.plane_axes(layout, [""], found["low"], found["high"])
        top = max(*film["from_retrained"], *film["from_original"], *net["chance"], 0.02)
        layout["yaxis2"] |= {"range": [0, 1.12 * top], "tickformat": ".0%"}
        layout["xaxis2"] |= {"title": {"text": "epochs of unlearning"}, "range": [-0.5, film["step"][-1] + 0.5]}
        layout["shapes"] = [_band(max(net["chance"]))]
        layout["legend"] = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"}
        layout["margin"] = {"l": 6, "r": 10, "t": 30, "b": 46}
        classes = len(found["class_names"])
        first = figures.field(unpacked(film["pictures"][0]), found["low"], found["high"], classes)
        lines = [
            figures.line(film["step"], film["from_retrained"], "retrained", "$retrained", "2", marker={"size": 4}),
            figures.line(film["step"], film["from_original"], "original", "$original", "2", marker={"size": 4}),
        ]
        here = {"mode": "markers", "xaxis": "x2", "yaxis": "y2", "showlegend": False, "marker": {"size": 11, "color": "$unlearned"}}
        data = [*first, figures.dots(points, labels), figures.rings(points[gone]), *lines, here]
        frames = [_frame(film, place, len(first), len(data)) for place in range(len(film["step"]))]
        data[-1] |= frames[0]["data"][-1]
        charts[f"{net['name']} ({net['parameters']} weights)"] = {"data": data, "layout": layout, "frames": frames}
    caption = "Press play, or drag. Grey band: how far retrained nets of other seeds are from the retrained net."
    return Figure(charts, caption, height=430, ratio=0.44, label="net", frame_label="epoch")


def _band(top: float) -> dict[str, Any]:
    place = {"xref": "x2 domain", "yref": "y2", "x0": 0, "x1": 1, "y0": 0, "y1": top}
    return {"type": "rect", **place, "layer": "below", "line": {"width": 0}, "fillcolor": "$quiet/0.18"}


def _frame(film: dict[str, Any], place: int, fields: int, count: int) -> dict[str, Any]:
    here = {"x": [film["step"][place]] * 2, "y": [film["from_retrained"][place], film["from_original"][place]]}
    last = place == len(film["step"]) - 1
    name = "end" if last else f"epoch {film['step'][place]}" if place else "start"
    return {
        "name": name,
        "traces": [*range(fields), count - 1],
        "data": [{"z": unpacked(film["pictures"][place]).tolist()}] * fields + [here],
    }


def _influence_text(estimated: bool) -> list[str]:
    text = [
        "Every net is trained once more for each point, without that point and with everything else as it was: initial weights, order, "
        "number of steps. The size of a dot is the share of the plane that changes class. "
        + ("Right: what the trained net alone foretells." if estimated else "")
    ]
    return text


def _influence(found: dict[str, Any], points: np.ndarray, labels: np.ndarray) -> Figure:
    charts = {}
    for net in reversed(found["nets"]):
        measures = [("measured: trained without the point", "moved"), ("estimated to first order", "estimated_moved")]
        measures = [(title, key) for title, key in measures if key in net["influence"]]
        layout, suffixes = figures.grid(1, len(measures), [title for title, _ in measures], gap=0.03)
        figures.plane_axes(layout, suffixes, found["low"], found["high"])
        top = max(max(net["influence"][key]) for _, key in measures) or 1.0
        data: list[dict[str, Any]] = []
        for (_, key), suffix in zip(measures, suffixes, strict=True):
            values = np.array(net["influence"][key])
            data += figures.field(unpacked(net["pictures"]["original"]), found["low"], found["high"], len(found["class_names"]), suffix)
            sizes = figures.numbers(5 + 25 * np.sqrt(values / top), 3)
            texts = [f"{_percent(value)} of the plane" for value in values]
            dot = figures.dots(points, labels, suffix, hoverinfo="text", text=texts)
            dot["marker"] |= {"size": sizes}
            data.append(dot)
        charts[f"{net['name']} ({net['parameters']} weights)"] = {"data": data, "layout": layout | {"margin": _thin()}}
    return Figure(charts, "One scale of sizes for both panels. Point at a dot for its share.", height=520, ratio=0.52, label="net")


def _estimate_text() -> list[str]:
    return [
        "The influence function asks the trained net only: gradient of the point's loss, divided by the curvature of the whole loss. For a "
        "linear classifier that is nearly what training without the point gives. The deeper the net, the less it knows.",
    ]


def _estimates(found: dict[str, Any]) -> Figure:
    charts = {}
    for net in reversed(found["nets"]):
        held = net["influence"]
        layout, suffixes = figures.grid(1, 2, ["distance of the weights", "share of the plane"], gap=0.1)
        data = []
        for key, suffix in zip(("distance", "moved"), suffixes, strict=True):
            measured, estimated = held[key], held[f"estimated_{key}"]
            end = 1.05 * max(*measured, *estimated, 1e-6)
            form = ".0%" if key == "moved" else ".2~g"
            layout[f"xaxis{suffix}"] |= {"title": {"text": "measured"}, "range": [-0.02 * end, end], "tickformat": form}
            layout[f"yaxis{suffix}"] |= {"title": {"text": "estimated"}, "range": [-0.02 * end, end], "tickformat": form}
            axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False}
            data.append(
                {"mode": "lines", "x": [0, end], "y": [0, end], "line": {"color": "$quiet", "dash": "dot"}, "hoverinfo": "skip"} | axes
            )
            marker = {"size": 8, "color": [figures.class_color(label, 0.75) for label in found["labels"]]}
            data.append({"mode": "markers", "x": measured, "y": estimated, "marker": marker} | axes)
        charts[f"{net['name']} ({net['parameters']} weights)"] = {"data": data, "layout": layout}
    return Figure(charts, "One dot a point; on the dotted line the estimate is right.", height=400, label="net")


def _correlations(found: dict[str, Any]) -> Table:
    rows = []
    for net in found["nets"]:
        held = net["influence"]
        row = [net["name"], str(net["parameters"]), _percent(float(np.mean(held["moved"]))), _percent(max(held["moved"]))]
        rows.append([*row, *(_rank(held[f"{key}_rank"]) for key in ("distance", "moved"))])
    heads = ["net", "weights", "plane moved by a point: mean", "largest", "rank correlation: distance of the weights", "share of the plane"]
    return Table(heads, rows, "Spearman's correlation over the points with its 95 % interval; the points share one net.")


def _rank(rank: dict[str, float] | None) -> str:
    return "–" if rank is None else f"{rank['value']:.2f} ({rank['low']:.2f} to {rank['high']:.2f})".replace("-", "−")
