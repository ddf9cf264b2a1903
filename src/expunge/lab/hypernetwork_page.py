"""What the study of the hypernetwork shows."""

from typing import Any

import numpy as np

from expunge import statistics
from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table
from expunge.lab.plane import unpacked

KINDS = ("trained on all", "trained without", "made of all", "made without")


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.hypernetwork.Hypernetwork` has found."""
    facts = [("data", found["data"]), ("points of a task", str(found["points"])), ("classifier", f"{found['classifier']} weights")]
    facts += [("hypernetwork", f"{found['weights']:,} weights"), ("learned from", f"{found['tasks']:,} tasks")]
    facts += [("compared on", f"{found['new_tasks']} new tasks"), ("method", found["method"])]
    question = (
        "A net that turns a training set into the weights of a classifier needs no unlearning: leave the point out and ask again. Are its "
        "classifiers like trained ones, and do they move as trained ones do when a point is gone?"
    )
    sections = [
        Section("Side by side", _pictures_text(), [_pictures(found)]),
        Section("Does it move as training moves?", _moves_text(), [_moves(found)]),
        Section("How unlike retraining", _unlike_text(found), [_unlike(found), _table(found)]),
        Section("How it learned", [], [_learning(found)]),
    ]
    return Sheet(question, _findings(found), facts, sections)


def _means(found: dict[str, Any], group: str, name: str) -> np.ndarray:
    return np.array([row[group][name] for row in found["rows"]])


def _percent(values: np.ndarray) -> str:
    try:
        held = statistics.mean_interval(values)
        return f"{100 * held.mean:.1f} ± {50 * (held.high - held.low):.1f} %"
    except statistics.NotEnoughEvidence:
        return f"{100 * values.mean():.1f} %"


def _findings(found: dict[str, Any]) -> list[str]:
    unlike = {name: _means(found, "unlike", name) for name in found["rows"][0]["unlike"]}
    objective = {name: _means(found, "objective", name).mean() for name in ("trained", "made")}
    said = [
        f"On tasks that it has not met, the objective of a made classifier is {objective['made']:.3f} nats, that of a trained one "
        f"{objective['trained']:.3f}. Right answers on new points: made {_percent(_means(found, 'accuracy', 'made'))}, trained "
        f"{_percent(_means(found, 'accuracy', 'trained'))}. {_said_of_accuracy(found)}",
        f"Without the most influential point, the made classifier differs from the retrained one on {_percent(unlike['hypernetwork'])} "
        f"of the plane, retrained ones of another seed on {_percent(unlike['another seed'])}. Doing nothing would leave "
        f"{_percent(unlike['nothing done'])}, {found['method']} leaves {_percent(unlike['method'])}.",
    ]
    if found["rank"]:
        rank = found["rank"]
        said.append(
            f"Which points matter: rank correlation of the share of the plane that a left-out point moves, made against trained, "
            f"{rank['value']:.2f} ({rank['low']:.2f} to {rank['high']:.2f}) over all points of all tasks."
        )
    said.append(
        f"The order of the points changes no made weight by more than {found['order']:.1g}: rounding. Leaving a point out removes all of "
        "its influence by construction. What the hypernetwork itself learned from, other tasks, stays in it: those it cannot forget "
        "this way."
    )
    return said


def _said_of_accuracy(found: dict[str, Any]) -> str:
    gain = _means(found, "accuracy", "made") - _means(found, "accuracy", "trained")
    try:
        held = statistics.mean_interval(gain)
    except statistics.NotEnoughEvidence:
        return ""
    if held.low > 0:
        return "Made ones are better, for they bring what all tasks have in common: more than the points that are there."
    return "Made ones are worse." if held.high < 0 else "The difference is within chance."


def _pictures_text() -> list[str]:
    return [
        "One task at a time: the classifier trained on its points, and the one that the hypernetwork made of them; then both without "
        "the ringed point, the one whose absence moves the trained boundary most. The two pairs should change alike.",
    ]


def _pictures(found: dict[str, Any]) -> Figure:
    charts = {}
    for number, task in enumerate(found["shown"], 1):
        layout, suffixes = figures.grid(1, 4, KINDS, gap=0.02)
        figures.plane_axes(layout, suffixes, found["low"], found["high"])
        points, labels = np.array(task["points"]), np.array(task["labels"])
        data: list[dict[str, Any]] = []
        for kind, suffix in zip(KINDS, suffixes, strict=True):
            data += figures.field(unpacked(task["pictures"][kind]), found["low"], found["high"], len(found["class_names"]), suffix)
            shown = np.delete(np.arange(len(points)), task["without"]) if "without" in kind else np.arange(len(points))
            data.append(figures.dots(points[shown], labels[shown], suffix, 8))
            data.append(figures.rings(points[task["without"]][None], suffix, 16))
        charts[f"{number}"] = {"data": data, "layout": layout | {"margin": {"l": 6, "r": 6, "t": 28, "b": 6}}}
    return Figure(charts, "The hypernetwork has met none of these points.", height=340, ratio=0.28, label="task")


def _moves_text() -> list[str]:
    return [
        "Every dot is one point of one task: across, the share of the plane that changes class when a classifier is trained without it; "
        "up, the same when the hypernetwork is asked without it.",
    ]


def _moves(found: dict[str, Any]) -> Figure:
    layout, _ = figures.grid(1, 1, [""])
    x = [value for row in found["rows"] for value in row["moved"]["trained"]]
    y = [value for row in found["rows"] for value in row["moved"]["made"]]
    end = 1.05 * max(*x, *y, 0.01)
    layout["xaxis"] |= {"title": {"text": "retrained: share of the plane that moves"}, "tickformat": ".0%", "range": [-0.01 * end, end]}
    layout["yaxis"] |= {"title": {"text": "hypernetwork"}, "tickformat": ".0%", "range": [-0.02 * end, end]}
    line = {
        "mode": "lines",
        "x": [0, end],
        "y": [0, end],
        "line": {"color": "$quiet", "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    dot = {"mode": "markers", "x": x, "y": y, "marker": {"size": 7, "color": "$accent/0.55"}, "showlegend": False}
    return Figure({"": {"data": [line, dot], "layout": layout}}, "On the dotted line both move alike.", height=400)


def _unlike_text(found: dict[str, Any]) -> list[str]:
    return [
        "The share of the plane on which a classifier differs from the one retrained without the point, one dot a task: when nothing is "
        f"done, after {found['method']}, when the hypernetwork is asked without the point, and when one retrains from other initial "
        "weights, which is what nobody can hope to be better than.",
    ]


def _unlike(found: dict[str, Any]) -> Figure:
    names = list(found["rows"][0]["unlike"])
    colors = {"nothing done": "$original", "method": "$unlearned", "hypernetwork": "$accent", "another seed": "$retrained"}
    data = []
    for name in names:
        values = _means(found, "unlike", name)
        shown = found["method"] if name == "method" else name
        box = {"type": "box", "y": values.tolist(), "name": shown, "boxpoints": "all", "jitter": 0.5, "pointpos": 0, "showlegend": False}
        data.append(box | {"line": {"color": colors[name], "width": 1.5}, "fillcolor": f"{colors[name]}/0.15", "marker": {"size": 5}})
    layout: dict[str, Any] = {"yaxis": {"tickformat": ".0%", "rangemode": "tozero"}, "xaxis": {"showgrid": False}}
    layout["yaxis"]["title"] = {"text": "of the plane unlike retrained"}
    return Figure(
        {"": {"data": data, "layout": layout | {"margin": {"l": 60, "r": 10, "t": 14, "b": 40}}}}, "Boxes are quartiles.", height=380
    )


def _table(found: dict[str, Any]) -> Table:
    rows = []
    for name in found["rows"][0]["unlike"]:
        values = _means(found, "unlike", name)
        rows.append([found["method"] if name == "method" else name, _percent(values), f"{100 * np.median(values):.1f} %"])
    return Table(["classifier without the point", "mean", "median"], rows, "Mean over tasks ± half of its 95 % interval.")


def _learning(found: dict[str, Any]) -> Figure:
    layout, _ = figures.grid(1, 1, [""])
    level = float(_means(found, "objective", "trained").mean())
    epochs = list(range(1, len(found["learning"]) + 1))
    data = [
        figures.line(epochs, found["learning"], "hypernetwork, on its tasks", "$accent"),
        figures.line([1, len(epochs)], [level, level], "trained classifiers, on new tasks", "$retrained", mode="lines"),
    ]
    data[1]["line"] |= {"dash": "dash"}
    layout["xaxis"] |= {"title": {"text": "epochs"}}
    layout["yaxis"] |= {"title": {"text": "objective in nats"}, "rangemode": "tozero"}
    layout["legend"] = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"}
    return Figure({"": {"data": data, "layout": layout}}, "Mean loss on a task's own points plus the decay of the weights.", height=320)
