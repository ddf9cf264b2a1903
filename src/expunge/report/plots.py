"""Figures for papers: PNG, SVG or PDF from finished results, in one style that colour-blind readers can read.

They show the same numbers as the page: both are drawn from `expunge.report.figures`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge.errors import BadInput, nearest
from expunge.report.columns import columns, ruling
from expunge.report.results import read
from expunge.runs import atomic_write

FORMATS = ("png", "svg", "pdf")
COLORS = {"original": "#d55e00", "unlearned": "#009e73", "retrained": "#0072b2"}
DASHES = {"original": ":", "unlearned": "-", "retrained": "--"}
MARKERS = {"original": "s", "unlearned": "o", "retrained": "D"}
CYCLE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#f0e442")
"""Okabe and Ito's colours: told apart by readers of every kind of colour vision."""
GREY = "#8a8f98"
WIDTH = 5.5
"""Inches: the text width of most conference papers."""

STYLE: Any = {
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "expunge",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}
"""Names are shown as they are, and text stays text, so that a figure can be searched and its fonts changed."""


@dataclass(frozen=True)
class Drawn:
    """What a figure is drawn from: a record, what its run folders hold, and the method that is set beside the references."""

    record: dict[str, Any]
    payload: dict[str, Any]
    row: str

    def of(self, figure: str) -> dict[str, Any]:
        """Return the values of a figure.

        Raises:
            BadInput: they are not there, and why.
        """
        found: dict[str, Any] = self.payload[figure]
        if found.get("reason"):
            raise BadInput("plot", f"cannot be drawn: {found['reason']}")
        return found

    def trio(self, rows: dict[str, Any]) -> list[tuple[str, str]]:
        """Return (role, row) of original, the method and retrained, as far as they are among these rows."""
        return [
            (role, name) for role, name in (("original", "original"), ("unlearned", self.row), ("retrained", "retrained")) if name in rows
        ]


def write(path: Path, figure: str, out: Path | None = None, row: str | None = None, request: int = 1, metric: str | None = None) -> Path:
    """Draw one figure of a result into a file, and return where it is.

    Args:
        path: a compare-* or bench-* folder, or its record.json.
        figure: one of ``FIGURES``.
        out: the file, ``.png``, ``.svg`` or ``.pdf``; FIGURE.pdf here if None.
        row: the method beside the references; the one with fewest tests outside their bands if None.
        request: number of the request in the result, from 1.
        metric: what ``metric`` and ``tradeoff`` show.

    Raises:
        BadInput: no such result, request, row, figure, metric or format; matplotlib or the evidence is missing.
    """
    if figure not in FIGURES:
        raise BadInput("plot", f"no figure is called {figure!r}.", nearest(figure, list(FIGURES)))
    place = out or Path(f"{figure}.pdf")
    if place.suffix.removeprefix(".").lower() not in FORMATS:
        raise BadInput("--out", f"{place.name} does not say which format it is.", f"Allowed: {', '.join('.' + name for name in FORMATS)}.")
    drawn = _drawn(path, figure, row, request)
    with _style() as plt:
        made = FIGURES[figure](plt, drawn, metric)
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[place.suffix[1:].lower()]
        with atomic_write(place) as temporary:
            made.savefig(temporary, format=place.suffix[1:].lower(), metadata=metadata)
        plt.close(made)
    return place


def _drawn(path: Path, figure: str, row: str | None, request: int) -> Drawn:
    from expunge.report.figures import payload

    found = read([path])
    if not 1 <= request <= len(found):
        raise BadInput("--request", f"there are {len(found)} requests, got {request}.", "Count from 1.")
    record, folder = found[request - 1]
    methods = [each["name"] for each in record["table"]["rows"] if each["role"] == "unlearned" and each["cells"]]
    if row is not None and row not in methods:
        raise BadInput("--row", f"no row is called {row!r}.", nearest(row, methods))
    held = payload.nothing(record) if figure in ("metric", "tradeoff") else payload.of(record, folder, only=NEEDS[figure])
    return Drawn(record, held, row or _closest(record, methods))


def _closest(record: dict[str, Any], methods: list[str]) -> str:
    from expunge.report.columns import outside

    rows = [row for row in record["table"]["rows"] if row["name"] in methods]
    return min(rows, key=lambda row: outside(row)[0])["name"] if rows else ""


@contextmanager
def _style() -> Iterator[Any]:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise BadInput("plot", "needs matplotlib, which is not installed.", "pip install 'expunge[plot]'") from None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE):
        yield plt


def _look(role: str) -> dict[str, Any]:
    return {"color": COLORS[role], "linestyle": DASHES[role]}


def _logarithmic(*ways: Any) -> None:
    """Label logarithmic axes with plain numbers."""
    for axis in ways:
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")


def _tradeoff(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    """Draw closeness against cost: points with intervals, the retrained band, the front."""
    table, costs = drawn.record["table"], drawn.record["cost"]
    name = metric or next((each for each in ("average_gap", "jensen_shannon") if each in table["metrics"]), next(iter(table["metrics"])))
    head = _head(drawn, name)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    if head["band"]:
        axes.axhspan(head["band"]["low"], head["band"]["high"], color=GREY, alpha=0.25, lw=0, label="retrained band")
    axes.axvline(1, color=GREY, lw=0.8, ls=":")
    looks = {"fails": ("x", COLORS["original"]), "open": ("o", COLORS["retrained"]), "none": ("d", GREY)}
    points = []
    for row in table["rows"]:
        ratio, cell = (costs.get(row["name"]) or {}).get("seconds_ratio"), row["cells"].get(name)
        if not ratio or cell is None or row["role"] == "original":
            continue
        marker, color = ("s", "black") if row["role"] == "retrained" else looks[ruling(row).kind]
        spread = cell["interval"]
        error = None if spread is None else [[cell["value"] - spread["low"]], [spread["high"] - cell["value"]]]
        axes.errorbar(ratio, cell["value"], yerror(error), fmt=marker, color=color, ecolor=GREY, elinewidth=0.7, fillstyle="none", ms=6)
        axes.annotate(row["name"], (ratio, cell["value"]), (5, 2), textcoords="offset points", fontsize=7)
        points += [(ratio, cell["value"])] if row["role"] == "unlearned" else []
    if head["target"] == "zero_up_to_band":
        best = _front(points)
        axes.step([x for x, _ in best], [y for _, y in best], where="post", color=COLORS["retrained"], lw=0.8, alpha=0.6, label="front")
    axes.set(xscale="log", xlabel="time, share of retraining", ylabel=f"{head['label']} {head['unit']}".strip())
    axes.set_xlim(min([0.09, *(0.7 * x for x, _ in points)]), None)
    _logarithmic(axes.xaxis)
    axes.legend(loc="best")
    return figure


def yerror(error: Any) -> Any:
    """Return the ends of an error bar as matplotlib takes them, never below the point."""
    return None if error is None else np.maximum(error, 0)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _head(drawn: Drawn, name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = drawn.record["table"]["metrics"]
    if name not in metrics:
        raise BadInput("--metric", f"the result has no metric {name!r}.", nearest(name, list(metrics)))
    return metrics[name]


def _metric(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    """Draw one metric of every row: seeds as points, mean with its interval, the retrained band."""
    name = metric or columns(drawn.record["table"])[0].name
    head, rows = _head(drawn, name), [row for row in drawn.record["table"]["rows"] if name in row["cells"]]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.22 * len(rows)))
    if head["band"]:
        axes.axvspan(head["band"]["low"], head["band"]["high"], color=GREY, alpha=0.25, lw=0)
    for place, row in enumerate(reversed(rows)):
        cell, role = row["cells"][name], row["role"]
        seeds = [value for value in cell["per_seed"] if value is not None]
        axes.plot(seeds, [place] * len(seeds), "|", color=COLORS[role], ms=5, alpha=0.6)
        spread = cell["interval"]
        error = None if spread is None else [[cell["value"] - spread["low"]], [spread["high"] - cell["value"]]]
        axes.errorbar(cell["value"], place, xerr=yerror(error), fmt=MARKERS[role], color=COLORS[role], elinewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axes.set_xlabel(f"{head['label']} {head['unit']}".strip())
    axes.grid(axis="y", visible=False)
    return figure


def _histograms(kind: str) -> Callable[..., Any]:
    def draw(plt: Any, drawn: Drawn, metric: str | None) -> Any:
        held = drawn.of("losses")[kind]
        edges, strips = np.array(held["edges"]), drawn.trio(held["rows"])
        figure, axes = plt.subplots(len(strips), 1, figsize=(WIDTH, 1.2 * len(strips) + 0.4), sharex=True, squeeze=False)
        for axis, (_, row) in zip(axes[:, 0], strips, strict=True):
            shares = {part: np.array(counts) / max(sum(counts), 1) for part, counts in held["rows"][row].items()}
            axis.stairs(shares["forget"], edges, fill=True, color=COLORS["original"], alpha=0.35, label="forget")
            for part, color, dash in (("unseen", COLORS["retrained"], ":"), ("retain", GREY, "-")):
                if part in shares:
                    axis.stairs(shares[part], edges, color=color, ls=dash, label=part)
            axis.set_title(row, loc="left", fontweight="bold")
            below = ", ".join(f"{part} {100 * values[0]:.0f} %" for part, values in shares.items())
            axis.set_title(f"first bin, cut off: {below}" if kind == "loss" else "", loc="right", fontsize=6, color=GREY)
            axis.set_ylim(0, 1.05 * max(float(values[1:].max()) for values in shares.values()))
            axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper right")
        axes[-1, 0].set(xlabel="loss in nats" if kind == "loss" else "margin", xscale="log" if kind == "loss" else "linear")
        if kind == "loss":
            _logarithmic(axes[-1, 0].xaxis)
        return figure

    return draw


def _roc(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    held = drawn.of("roc")
    figure, axes = plt.subplots(figsize=(0.62 * WIDTH, 0.6 * WIDTH))
    axes.plot([held["fpr"][0], 1], [held["fpr"][0], 1], color=GREY, lw=0.8, ls=(0, (1, 2)))
    for role, row in drawn.trio(held["rows"]):
        curve = held["rows"][row]
        axes.plot([*held["fpr"], 1], [*curve["tpr"], 1], label=f"{row} (AUC {curve['auc']:.3f})", **_look(role))
        if curve["low"]:
            axes.fill_between(held["fpr"], curve["low"], curve["high"], color=COLORS[role], alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlim=(held["fpr"][0], 1), ylim=(held["fpr"][0] / 4, 1.1), xlabel="false positive rate")
    axes.set_ylabel("true positive rate")
    _logarithmic(axes.xaxis, axes.yaxis)
    axes.legend(loc="lower right")
    return figure


def _examples(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    held = drawn.of("examples")
    figure, axes = plt.subplots(figsize=(WIDTH, 2.4))
    for role, row in reversed(drawn.trio(held["rows"])):
        null = role == "retrained"
        more = {"fill": True, "alpha": 0.35, "color": GREY} if null else _look(role)
        axes.stairs(held["rows"][row]["shares"], held["edges"], label="retrained among themselves" if null else row, **more)
    axes.set(xlabel="AUC of an example", ylabel="share of examples")
    axes.legend()
    return figure


def _blocks(key: str, words: str) -> Callable[..., Any]:
    def draw(plt: Any, drawn: Drawn, metric: str | None) -> Any:
        held = drawn.of("inside")
        figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 2.4))
        names = [name.removeprefix("net.") for name in held["blocks"]]
        ours = held["rows"].get(drawn.row) or {}
        if key == "probe":
            for role, row in drawn.trio(held["rows"]):
                if "probe" in held["rows"][row]:
                    axes.plot(names, held["rows"][row]["probe"], marker=MARKERS[role], label=row, **_look(role))
        else:
            if held["floor"]:
                axes.plot(names, held["floor"][key], color=GREY, marker=".", ls=":", label="two retrained models")
            for role in ("original", "retrained"):
                if f"{key}_{role}" in ours:
                    axes.plot(names, ours[f"{key}_{role}"], marker=MARKERS[role], label=f"{drawn.row} to {role}", **_look(role))
        axes.set_ylabel(words)
        axes.legend()
        return figure

    return draw


def _relearning(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    held = drawn.of("relearning")["rows"]
    figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 2.4))
    for role, row in drawn.trio(held):
        epochs = range(len(held[row]["curve"]))
        axes.errorbar(epochs, held[row]["curve"], held[row]["spread"], marker=MARKERS[role], label=row, elinewidth=0.7, **_look(role))
    axes.set(xlabel="epochs of training on retained data", ylabel="forget accuracy")
    axes.legend()
    return figure


def _along(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    runs = drawn.of("epochs")["rows"].get(drawn.row) or []
    if not runs:
        raise BadInput("plot", f"{drawn.row} reported no epoch.", "Choose another --row.")
    figure, axes = plt.subplots(figsize=(WIDTH, 2.4))
    names = list(dict.fromkeys(name for run in runs for name in run["series"].get("losses", {})))
    for place, name in enumerate(names):
        held = [dict(map(tuple, run["series"]["losses"][name])) for run in runs if name in run["series"].get("losses", {})]
        epochs = sorted({epoch for points in held for epoch in points})
        for points in held:
            axes.plot(list(points), list(points.values()), color=CYCLE[place % len(CYCLE)], lw=0.5, alpha=0.5)
        means = [np.mean([points[epoch] for points in held if points.get(epoch) is not None]) for epoch in epochs]
        axes.plot(epochs, means, color=CYCLE[place % len(CYCLE)], marker="os^vDP*X"[place % 8], label=name)
    axes.set(xlabel="epoch of unlearning", ylabel="loss", title=drawn.row)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def _confusion(plt: Any, drawn: Drawn, metric: str | None) -> Any:
    held = drawn.of("confusion")
    shown = drawn.trio(held["rows"])
    figure, axes = plt.subplots(1, len(shown), figsize=(WIDTH, 0.6 + WIDTH / len(shown)), sharey=True, squeeze=False)
    for axis, (_, row) in zip(axes[0], shown, strict=True):
        axis.imshow(held["rows"][row], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(held["predicted"])), held["predicted"], rotation=90)
        axis.set_yticks(range(len(held["true"])), held["true"])
        axis.set_title(row)
        axis.grid(visible=False)
    axes[0, 0].set_ylabel("true class")
    return figure


FIGURES: dict[str, Callable[..., Any]] = {
    "tradeoff": _tradeoff,
    "metric": _metric,
    "losses": _histograms("loss"),
    "margins": _histograms("margin"),
    "roc": _roc,
    "examples": _examples,
    "confusion": _confusion,
    "along": _along,
    "cka": _blocks("cka", "alignment (CKA)"),
    "distance": _blocks("distance", "distance of weights"),
    "probe": _blocks("probe", "forget examples named"),
    "relearning": _relearning,
}
"""Name -> what draws it."""
NEEDS = {
    **{name: name for name in ("roc", "examples", "confusion", "relearning")},
    **{name: "losses" for name in ("losses", "margins")},
    **{name: "inside" for name in ("cka", "distance", "probe")},
    "along": "epochs",
}
"""Figure -> what of the run folders it is drawn from."""
