"""What the study of the discriminator shows."""

from typing import Any

import numpy as np

from expunge import statistics
from expunge.attacks import roc
from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table

COLORS = {"loss": "$forget", "probabilities": "$unseen", "gradient norms": "$class2", "feature gradient": "$class3"}
SYMBOLS = ("circle", "square", "diamond", "cross", "x")


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.discriminator.Discriminator` has found."""
    found = _in_words(found)
    sizes = found["sizes"]
    facts = [("data", found["data"]), ("forget", str(sizes["forget"])), ("unseen", str(sizes["unseen"])), ("seeds", str(found["seeds"]))]
    facts += [("folds", str(found["folds"])), ("attackers", str(len(found["attackers"]))), ("looks", str(len(found["looks"])))]
    question = (
        "A threshold on the loss may miss what the whole vector of probabilities or a gradient gives away. Which attacker, looking at "
        "what, can tell examples that a model has forgotten from examples that it has never seen?"
    )
    sections = [
        Section("Every attacker on every model", _text(found), [_dots(found), _heat(found)]),
        Section("The numbers", [], [_table(found), _accuracies(found)]),
    ]
    return Sheet(question, _findings(found), facts, sections)


def _in_words(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found with the names of looks and attackers as one says them."""

    def said(name: str) -> str:
        return name.replace("_", " ")

    areas = {
        row: [{said(look): {said(name): area for name, area in held.items()} for look, held in seed.items()} for seed in seeds]
        for row, seeds in found["areas"].items()
    }
    dimensions = {said(look): count for look, count in found["dimensions"].items()}
    lists = {key: [said(name) for name in found[key]] for key in ("looks", "attackers")}
    return found | lists | {"areas": areas, "dimensions": dimensions}


def areas(found: dict[str, Any], row: str, look: str, attacker: str) -> np.ndarray:
    """Return the AUC of an attacker on a row, one value a seed."""
    return np.array([seed[look][attacker] for seed in found["areas"][row]])


def span(values: np.ndarray) -> statistics.Interval | None:
    """Return the 95 % interval of the mean over seeds; None where there is none."""
    try:
        return statistics.mean_interval(values)
    except statistics.NotEnoughEvidence:
        return None


def _pairs(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(look, attacker) for look in found["looks"] for attacker in found["attackers"]]


def _best(found: dict[str, Any], row: str) -> tuple[str, str, float]:
    """Return (look, attacker, AUC) of the attacker that does best against a row."""
    look, attacker = max(_pairs(found), key=lambda pair: areas(found, row, *pair).mean())
    return look, attacker, float(areas(found, row, look, attacker).mean())


def _findings(found: dict[str, Any]) -> list[str]:
    look, attacker, value = _best(found, "original")
    plain = float(areas(found, "original", found["looks"][0], found["attackers"][0]).mean())
    said = [
        f"On the original the best attacker is the {attacker} on {look}, with an AUC of {value:.3f}; a {found['attackers'][0]} on "
        f"{found['looks'][0]} reaches {plain:.3f}. {_said_of_looks(found)}",
        _said_of_retrained(found),
    ]
    for row in found["methods"]:
        said.append(_said_of_method(found, row))
    return said


def _said_of_looks(found: dict[str, Any]) -> str:
    """Say what a better attacker gains on the first look, and what further looks gain over the best attacker on that one."""
    first, simple = found["looks"][0], found["attackers"][0]
    best = {look: _best_on(found, look) for look in found["looks"]}
    base = areas(found, "original", first, best[first])
    said = []
    asked = span(base - areas(found, "original", first, simple))
    if asked and asked.low > 0:
        said.append(
            f"The same {first} gives {asked.mean:.3f} more to the {best[first]}: members do not have the lowest losses, but losses "
            "unlike others."
        )
    gains = {look: span(areas(found, "original", look, best[look]) - base) for look in found["looks"][1:]}
    richer = [f"{look} by {gain.mean:.3f}" for look, gain in gains.items() if gain and gain.low > 0]
    said.append(
        f"Beyond that best attacker on {first}, further looks gain: {', '.join(richer)}."
        if richer
        else f"No further look does better than that best attacker on {first} beyond chance."
    )
    return " ".join(said)


def _best_on(found: dict[str, Any], look: str) -> str:
    return max(found["attackers"], key=lambda name: areas(found, "original", look, name).mean())


def _said_of_retrained(found: dict[str, Any]) -> str:
    values = [float(areas(found, "retrained", *pair).mean()) for pair in _pairs(found)]
    alarms = [pair for pair in _pairs(found) if (held := span(areas(found, "retrained", *pair))) and (held.low > 0.5 or held.high < 0.5)]
    expected = 0.05 * len(values)
    return (
        f"On retrained nets, which hold no trace, the attackers reach {min(values):.3f} to {max(values):.3f}. {len(alarms)} of "
        f"{len(values)} intervals miss 0.5, where chance alone lets {expected:.1f} miss it."
    )


def _said_of_method(found: dict[str, Any], row: str) -> str:
    look, attacker, value = _best(found, row)
    gaps = {pair: span(areas(found, row, *pair) - areas(found, "retrained", *pair)) for pair in _pairs(found)}
    above = sum(gap is not None and gap.low > 0 for gap in gaps.values())
    below = sum(gap is not None and gap.high < 0 for gap in gaps.values())
    return (
        f"{row}: best is the {attacker} on {look} with {value:.3f}. {above} of {len(gaps)} attackers do better than on the retrained "
        f"nets of the same requests{f', {below} worse' if below else ''} (95 % intervals over seeds, "
        f"uncorrected).{_said_of_damage(found, row)}"
    )


def _said_of_damage(found: dict[str, Any], row: str) -> str:
    """Return a warning where a row is right on fewer test examples than retrained nets, seed by seed; empty otherwise."""
    own, retrained = (np.array([seed["test"] for seed in found["accuracy"][name]]) for name in (row, "retrained"))
    loss = span(own - retrained)
    if loss is None or loss.high >= 0:
        return ""
    return f" It pays with accuracy: {100 * own.mean():.1f} % right on test examples, retrained {100 * retrained.mean():.1f} %."


def _text(found: dict[str, Any]) -> list[str]:
    return [
        "Each mark is one attacker on one look, judged on examples that it was not fitted on, with its 95 % interval over nets. Fitted "
        "attackers find the direction themselves, so that below 0.5 there is only bad luck; 0.5 is a coin. The grey band is where a "
        "coin's mean would lie in 95 of 100 studies of this size.",
    ]


def _half(found: dict[str, Any]) -> float:
    size = min(found["sizes"]["forget"], found["sizes"]["unseen"])
    return 1.96 * roc.null_standard_error(size, size) / float(np.sqrt(found["seeds"]))


def _dots(found: dict[str, Any]) -> Figure:
    pairs, data = _pairs(found), []
    for place, (look, attacker) in enumerate(pairs):
        values = [areas(found, row, look, attacker) for row in found["rows"]]
        means, spans = [float(each.mean()) for each in values], [span(each) for each in values]
        shift = 0.7 * (place / max(1, len(pairs) - 1) - 0.5)
        color = COLORS.get(look, "$accent")
        error = figures.bars([s.low if s else None for s in spans], means, [s.high if s else None for s in spans])
        symbol = SYMBOLS[found["attackers"].index(attacker) % len(SYMBOLS)]
        data.append(
            {
                "mode": "markers",
                "x": [at + shift for at in range(len(found["rows"]))],
                "y": means,
                "name": f"{look}: {attacker}",
                "error_y": error | {"color": f"{color}/0.5"},
                "marker": {"symbol": symbol, "size": 8, "color": color},
                "hovertemplate": f"{look}, {attacker}: %{{y:.3f}}<extra></extra>",
            }
        )
    half = _half(found)
    band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5 - half, "y1": 0.5 + half, "layer": "below", "line": {"width": 0}}
    layout: dict[str, Any] = {"shapes": [band | {"fillcolor": "$quiet/0.2"}]}
    layout["xaxis"] = {"tickvals": list(range(len(found["rows"]))), "ticktext": found["rows"], "showgrid": False}
    layout["xaxis"]["range"] = [-0.55, len(found["rows"]) - 0.45]
    layout["yaxis"] = {"title": {"text": "AUC, forgotten against unseen"}}
    layout["legend"] = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.12, "yanchor": "top"}
    layout["margin"] = {"l": 60, "r": 10, "t": 14, "b": 130}
    return Figure({"": {"data": data, "layout": layout}}, "Colours are looks, shapes are attackers.", height=560)


def _heat(found: dict[str, Any]) -> Figure:
    charts = {}
    for row in found["rows"]:
        z = [[float(areas(found, row, look, attacker).mean()) for look in found["looks"]] for attacker in found["attackers"]]
        trace = {
            "type": "heatmap",
            "x": found["looks"],
            "y": found["attackers"],
            "z": z,
            "zmin": 0.5,
            "zmax": max(0.55, max(float(areas(found, "original", *pair).mean()) for pair in _pairs(found))),
            "colorscale": [[0, "$height2"], [1, "$height4"]],
            "texttemplate": "%{z:.3f}",
            "hoverinfo": "skip",
            "xgap": 3,
            "ygap": 3,
            "colorbar": {"thickness": 10, "outlinewidth": 0},
        }
        layout = {"yaxis": {"autorange": "reversed", "showgrid": False}, "xaxis": {"showgrid": False}}
        charts[row] = {"data": [trace], "layout": layout | {"margin": {"l": 130, "r": 10, "t": 14, "b": 36}}}
    caption = "Mean AUC over seeds. Rows are attackers, columns what they look at."
    return Figure(charts, caption, height=300, label="model")


def _table(found: dict[str, Any]) -> Table:
    rows = []
    for look, attacker in _pairs(found):
        row = [f"{attacker} on {look}"]
        for name in found["rows"]:
            values = areas(found, name, look, attacker)
            held = span(values)
            row.append(f"{values.mean():.3f}" + (f" ± {(held.high - held.low) / 2:.3f}" if held else ""))
        rows.append(row)
    words = ", ".join(f"{look} {count}" for look, count in found["dimensions"].items())
    return Table(
        ["attacker", *found["rows"]],
        rows,
        f"Mean over seeds ± half of its 95 % interval. Numbers that a look shows of an example: {words}.",
    )


def _accuracies(found: dict[str, Any]) -> Table:
    rows = []
    for name in found["rows"]:
        values = {key: np.mean([seed[key] for seed in found["accuracy"][name]]) for key in ("forget", "retain", "test")}
        rows.append([name, *(f"{100 * value:.1f} %" for value in values.values())])
    return Table(
        ["model", "right on forget", "right on retain", "right on test"],
        rows,
        "So that a model which was broken does not pass for one that has forgotten.",
    )
