"""Plotly charts as plain values. Colours are names of the page's own, so that a chart fits a light and a dark page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MODELS = {"original": "$original", "unlearned": "$unlearned", "retrained": "$retrained"}
"""The colour of each model, the same on every page."""
DASHES = {"original": "dot", "unlearned": "solid", "retrained": "dash"}
CLASSES = 10
"""Colours for classes; further classes start again."""


def numbers(values: Any, digits: int = 4) -> list[Any]:
    """Return an array as nested lists with so many significant digits; what is not finite is None."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 1:
        return [numbers(row, digits) for row in array]
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in array]


def class_color(label: int, share: float | None = None) -> str:
    """Return the colour of a class."""
    return f"$class{label % CLASSES}" + (f"/{share}" if share is not None else "")


def grid(rows: int, columns: int, titles: Sequence[str], *, gap: float = 0.04, drop: float = 0.12) -> tuple[dict[str, Any], list[str]]:
    """Return the layout of ``rows x columns`` panels with their titles, and the suffix of each panel's axes, row by row.

    Args:
        rows: of panels.
        columns: of panels.
        titles: one for each panel.
        gap: share of the width between two panels.
        drop: share of the height between two rows.
    """
    layout: dict[str, Any] = {"annotations": []}
    suffixes = []
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        width, height = (1 - gap * (columns - 1)) / columns, (1 - drop * (rows - 1)) / rows
        left, top = column * (width + gap), 1 - row * (height + drop)
        suffix = str(place + 1) if place else ""
        layout[f"xaxis{suffix}"] = {"domain": [left, left + width], "anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] = {"domain": [max(0.0, top - height), top], "anchor": f"x{suffix}"}
        layout["annotations"].append(note(f"<b>{titles[place]}</b>", left, top))
        suffixes.append(suffix)
    return layout, suffixes


def note(text: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    """Return a text at a place of the whole chart, which spans 0 to 1 both ways."""
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {"text": text, "x": x, "y": y, **place, **more}


def plane_axes(layout: dict[str, Any], suffixes: Sequence[str], low: Sequence[float], high: Sequence[float]) -> None:
    """Make panels that show the plane: equal scales, no ticks, the same corner points."""
    for suffix in suffixes:
        layout[f"xaxis{suffix}"] |= {"range": [low[0], high[0]], "visible": False}
        layout[f"yaxis{suffix}"] |= {"range": [low[1], high[1]], "visible": False, "scaleanchor": f"x{suffix}", "constrain": "domain"}


def field(values: np.ndarray, low: Sequence[float], high: Sequence[float], classes: int, suffix: str = "") -> list[dict[str, Any]]:
    """Return what colours the plane by the answers of a model.

    Args:
        values: ``[n, n]``, rows from the bottom: for two classes the probability of the second in hundredths, else the class.
        low: lower left corner.
        high: upper right corner.
        classes: how many.
        suffix: of the panel's axes.
    """
    x, y = (np.linspace(low[axis], high[axis], len(values)) for axis in (0, 1))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": numbers(x),
        "y": numbers(y),
        "z": values.astype(int).tolist(),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "showscale": False,
        "hoverinfo": "skip",
    }
    if classes == 2:
        scale = [[0, class_color(0, 0.55)], [0.5, class_color(0, 0.06)], [0.5, class_color(1, 0.06)], [1, class_color(1, 0.55)]]
        line = {"coloring": "none", "start": 50, "end": 50, "size": 1, "showlabels": False}
        boundary = {**trace, "type": "contour", "contours": line, "line": {"width": 2.2, "color": "$ink"}, "showlegend": False}
        return [{**trace, "zmin": 0, "zmax": 100, "zsmooth": "best", "colorscale": scale}, boundary]
    steps = [[(label + side) / classes, class_color(label, 0.32)] for label in range(classes) for side in (0, 1)]
    return [{**trace, "zmin": -0.5, "zmax": classes - 0.5, "colorscale": steps}]


def dots(points: np.ndarray, labels: np.ndarray, suffix: str = "", size: float = 6, **more: Any) -> dict[str, Any]:
    """Return points ``[n, 2]`` in the colours of their classes ``[n]``."""
    marker = {"size": size, "color": [class_color(label) for label in labels], "line": {"color": "$paper", "width": 1}}
    base = {"mode": "markers", "x": numbers(points[:, 0]), "y": numbers(points[:, 1]), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    return base | {"marker": marker, "showlegend": False, "hoverinfo": "skip"} | more


def class_legend(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return traces without points that put the names of classes in the legend."""
    base = {"mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip", "showlegend": True}
    return [base | {"name": name, "marker": {"size": 8, "color": class_color(label)}} for label, name in enumerate(names)]


def rings(points: np.ndarray, suffix: str = "", size: float = 14, name: str = "forgotten", legend: bool = False) -> dict[str, Any]:
    """Return rings around points, for those that are forgotten."""
    marker = {"size": size, "color": "rgba(0,0,0,0)", "line": {"color": "$ink", "width": 2}}
    base = {"mode": "markers", "x": numbers(points[:, 0]), "y": numbers(points[:, 1]), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    return base | {"marker": marker, "name": name, "showlegend": legend, "hoverinfo": "skip"}


def line(
    x: Sequence[float], y: Sequence[float | None], name: str, color: str, suffix: str = "", legend: bool = True, **more: Any
) -> dict[str, Any]:
    """Return a line with dots."""
    base = {"type": "scatter", "mode": "lines+markers", "x": list(x), "y": list(y), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    look = {"line": {"color": color, "width": 2}, "marker": {"size": 6, "color": color}}
    return base | look | {"name": name, "legendgroup": name, "showlegend": legend} | more


def bars(low: Sequence[float | None], value: Sequence[float | None], high: Sequence[float | None]) -> dict[str, Any]:
    """Return error bars from ``low`` to ``high``; where there is no interval there is no bar."""

    def width(a: float | None, b: float | None) -> float:
        return 0.0 if a is None or b is None else abs(b - a)

    up = [width(v, h) for v, h in zip(value, high, strict=True)]
    down = [width(v, lo) for v, lo in zip(value, low, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.3, "width": 4}


def steps(edges: Sequence[float], shares: Sequence[float], name: str, color: str, suffix: str = "", **more: Any) -> dict[str, Any]:
    """Return a histogram as an outline over its edges."""
    base = {"type": "scatter", "mode": "lines", "x": list(edges), "y": [*shares, shares[-1]], "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    return base | {"line": {"shape": "hv", "color": color, "width": 1.8}, "name": name, "legendgroup": name} | more
