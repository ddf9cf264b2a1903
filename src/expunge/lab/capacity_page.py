"""What the study of capacity shows."""

from typing import Any

import numpy as np

from expunge import statistics
from expunge.attacks import roc
from expunge.lab import figures
from expunge.lab.lab import Figure, Section, Sheet, Table

MODELS = ("original", "unlearned", "retrained")
MEASURES = {
    "auc": "AUC of the loss",
    "excess": "AUC above that of the retrained net",
    "ks": "KS distance",
    "overlap": "overlap of the histograms",
}


def sheet(found: dict[str, Any]) -> Sheet:
    """Return the page of what `expunge.lab.capacity.Capacity` has found."""
    sizes = found["sizes"]
    facts = [("data", found["data"]), ("forget", str(sizes["forget"])), ("retain", str(sizes["retain"])), ("unseen", str(sizes["unseen"]))]
    facts += [("method", found["method"]), ("nets", str(len(found["nets"]))), ("seeds", str(found["seeds"]))]
    question = (
        "Unlearning can be seen as the problem of overfitting: only what a net remembers must be forgotten. How do the losses of "
        "members and of unseen examples part as the net grows, and what is left of the difference after unlearning?"
    )
    sections = [
        Section("Against the number of weights", _curves_text(), [_curves(found)]),
        Section("Loss histograms", _histogram_text(), [_histograms(found)]),
        Section("The numbers", [], [_table(found)]),
    ]
    return Sheet(question, _findings(found), facts, sections)


def values(net: dict[str, Any], model: str, measure: str) -> np.ndarray:
    """Return a measure of one net, one value a seed."""
    if measure == "excess":
        return values(net, model, "auc") - values(net, "retrained", "auc")
    return np.array([seed[measure] for seed in net["measures"][model]])


def interval(held: np.ndarray) -> statistics.Interval | None:
    """Return the 95 % interval of the mean over seeds; None where all agree exactly or there is one."""
    try:
        return statistics.mean_interval(held)
    except statistics.NotEnoughEvidence:
        return None


def _findings(found: dict[str, Any]) -> list[str]:
    nets = found["nets"]
    first, last = nets[0], nets[-1]
    areas = {model: [float(values(net, model, "auc").mean()) for net in nets] for model in MODELS}
    null = roc.null_standard_error(found["sizes"]["forget"], found["sizes"]["unseen"])
    said = [
        "By how much the original gives away its members: AUC above that of the retrained net "
        f"{_cell(values(first, 'original', 'excess'))} with "
        f"{first['parameters']} weights and {_cell(values(last, 'original', 'excess'))} with {last['parameters']}. {_said_of_growth(nets)}",
        f"Retrained nets never saw the forget set; their AUC lies from {min(areas['retrained']):.3f} to {max(areas['retrained']):.3f}. "
        f"All requests draw from one training set, and two samples of these sizes have a standard error of {null:.3f} around 0.5: the "
        "second chart therefore compares nets of one request.",
        _said_of_method(found, areas),
        _said_of_fit(nets),
    ]
    return said


def _said_of_growth(nets: list[dict[str, Any]]) -> str:
    from scipy import stats

    means = [float(values(net, "original", "excess").mean()) for net in nets]
    if len(nets) < 4:
        return ""
    found = stats.spearmanr([net["parameters"] for net in nets], means)
    return (
        f"Rank correlation with the number of weights over the {len(nets)} nets: {found.statistic:.2f} (p = {found.pvalue:.2g}).".replace(
            "-", "−"
        )
    )


def _said_of_method(found: dict[str, Any], areas: dict[str, list[float]]) -> str:
    gaps = [interval(values(net, "unlearned", "excess")) for net in found["nets"]]
    over = [net["name"] for net, gap in zip(found["nets"], gaps, strict=True) if gap and gap.high < 0]
    under = [net["name"] for net, gap in zip(found["nets"], gaps, strict=True) if gap and gap.low > 0]
    parts = []
    if under:
        parts.append(f"leaves something behind in {_listed(under)}")
    if over:
        parts.append(
            f"goes too far in {_listed(over)}: the losses of forgotten examples are then higher than those of unseen ones would be"
        )
    if not parts:
        parts.append("cannot be told from retraining in any of these nets")
    low, high = min(areas["unlearned"]), max(areas["unlearned"])
    words = "; it ".join(parts)
    return f"{found['method']} brings the AUC to {low:.3f} to {high:.3f}. Against retrained nets of the same requests it {words}."


def _listed(names: list[str]) -> str:
    return "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _said_of_fit(nets: list[dict[str, Any]]) -> str:
    small, large = nets[0], nets[-1]
    parts = [
        f"{net['name']}: {values(net, 'original', 'retain').mean():.1f} % of the training set and "
        f"{values(net, 'original', 'test').mean():.1f} % "
        "of the test set"
        for net in (small, large)
    ]
    return f"The reason is the gap of generalisation. Right answers of the smallest and the largest original: {parts[0]}; {parts[1]}."


def _curves_text() -> list[str]:
    return [
        "Each dot is the mean over seeds with its 95 % interval. At an AUC of 0.5 the loss tells nothing about membership. The grey "
        "band is where two samples of one law lie in 95 of 100 draws. The second chart takes each net's AUC less that of the retrained "
        "net of the same request.",
    ]


def _curves(found: dict[str, Any]) -> Figure:
    layout, suffixes = figures.grid(2, 2, list(MEASURES.values()), gap=0.09, drop=0.2)
    data = []
    n1, n0 = found["sizes"]["forget"], found["sizes"]["unseen"]
    bands = {"auc": (0.5 - 1.96 * roc.null_standard_error(n1, n0), 0.5 + 1.96 * roc.null_standard_error(n1, n0))}
    bands["excess"] = (0.0, 0.0)
    bands["ks"] = (0.0, 1.358 * float(np.sqrt((n1 + n0) / (n1 * n0))))
    layout["shapes"] = []
    for measure, suffix in zip(MEASURES, suffixes, strict=True):
        for shift, model in enumerate(MODELS):
            held = [values(net, model, measure) for net in found["nets"]]
            means = [float(each.mean()) for each in held]
            spans = [interval(each) for each in held]
            x = [net["parameters"] * (1 + 0.04 * (shift - 1)) for net in found["nets"]]
            error = figures.bars([s.low if s else None for s in spans], means, [s.high if s else None for s in spans])
            names = [f"{net['name']}: {mean:.3f}" for net, mean in zip(found["nets"], means, strict=True)]
            look = {"color": figures.MODELS[model], "dash": figures.DASHES[model], "width": 1.6}
            data.append(
                figures.line(x, means, model, figures.MODELS[model], suffix, legend=not suffix, line=look, error_y=error, hovertext=names)
                | {"hoverinfo": "text+name"}
            )
        layout[f"xaxis{suffix}"] |= {"type": "log", "title": {"text": "weights"}, "exponentformat": "none", "dtick": 1}
        if measure in bands:
            layout["shapes"].append(_band(suffix, *bands[measure]))
    layout["legend"] = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.11, "yanchor": "top"}
    layout["margin"] = {"l": 40, "r": 10, "t": 30, "b": 80}
    return Figure({"": {"data": data, "layout": layout}}, "Point at a dot for its net.", height=640)


def _band(suffix: str, low: float, high: float) -> dict[str, Any]:
    place = {"xref": f"x{suffix} domain", "yref": f"y{suffix}", "x0": 0, "x1": 1, "y0": low, "y1": high}
    return {
        "type": "rect",
        **place,
        "layer": "below",
        "line": {"width": 0 if high > low else 1, "color": "$quiet"},
        "fillcolor": "$quiet/0.16",
    }


def _histogram_text() -> list[str]:
    return [
        "Losses on a logarithmic axis, all seeds together. Members are the forget set: in the original they were trained on, in the "
        "retrained net they were not. What the orange outline has to the left of the blue one is memory.",
    ]


def _histograms(found: dict[str, Any]) -> Figure:
    charts = {}
    for net in reversed(found["nets"]):
        layout, suffixes = figures.grid(1, 3, MODELS, gap=0.04)
        top = 1.1 * max(max(net["histograms"][model][part]) for model in MODELS for part in ("forget", "unseen"))
        data = []
        for model, suffix in zip(MODELS, suffixes, strict=True):
            shares, first = net["histograms"][model], not suffix
            fill = {"fill": "tozeroy", "fillcolor": "$forget/0.22"}
            data.append(figures.steps(found["edges"], shares["forget"], "forget", "$forget", suffix, showlegend=first, **fill))
            data.append(figures.steps(found["edges"], shares["unseen"], "unseen", "$unseen", suffix, showlegend=first))
            hidden = {"visible": "legendonly"}
            data.append(figures.steps(found["edges"], shares["retain"], "retain", "$retain", suffix, showlegend=first, **hidden))
            layout[f"xaxis{suffix}"] |= {"type": "log", "title": {"text": "loss in nats"}, "dtick": 1, "tickformat": "~g"}
            layout[f"yaxis{suffix}"] |= {"range": [0, min(top, 0.5)], "tickformat": ".0%", "showticklabels": first}
        layout["legend"] = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2, "yanchor": "top"}
        layout["margin"] = {"l": 44, "r": 10, "t": 30, "b": 80}
        charts[f"{net['name']} ({net['parameters']} weights)"] = {"data": data, "layout": layout}
    guess = found["guess"]
    caption = (
        f"Shares of examples; the first bin holds every smaller loss too. Guessing has a loss of {guess:.2f}. Click retain to see it too."
    )
    return Figure(charts, caption, height=380, label="net")


def _table(found: dict[str, Any]) -> Table:
    heads = ["net", "weights", *(f"AUC {model}" for model in MODELS), *(f"overlap {model}" for model in MODELS)]
    heads += ["train right", "test right"]
    rows = []
    for net in found["nets"]:
        row = [net["name"], str(net["parameters"])]
        row += [_cell(values(net, model, "auc")) for model in MODELS] + [_cell(values(net, model, "overlap")) for model in MODELS]
        row += [f"{values(net, 'original', part).mean():.1f} %" for part in ("retain", "test")]
        rows.append(row)
    return Table(heads, rows, "Mean over seeds ± half of its 95 % interval. The last two columns are of the original.")


def _cell(held: np.ndarray) -> str:
    span = interval(held)
    return f"{held.mean():.3f}" + (f" ± {(span.high - span.low) / 2:.3f}" if span else "")
