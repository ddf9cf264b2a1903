"""Losses and margins of every row in fine bins: what histograms are drawn from, and what an attack by threshold would find."""

from typing import Any

import numpy as np

from expunge.report.figures.models import Models, short
from expunge.report.histograms import FLOOR

BINS = 96


def of(models: Models) -> dict[str, Any]:
    """Return counts of losses and margins over bins that all rows share, all models of a row together.

    Returns:
        ``{loss: {edges: [B + 1], rows: {row: {part: [B]}}}, margin: the same, sizes: {part: [shown, all]}, models: {row: n}}``. The first
        and the last bin also hold all values beyond the edges. A threshold at ``edges[k]`` calls every loss in the bins below it, or
        every margin in the bins from it on, a member.
    """
    seen = {row: {part: models.margins(row, part) for part in models.parts} for row in models.rows}
    margins = {row: {part: values.ravel() for part, values in parts.items()} for row, parts in seen.items()}
    losses = {row: {part: np.logaddexp(0.0, -values) for part, values in parts.items()} for row, parts in margins.items()}
    return {
        "loss": _counted(losses, _loss_edges(losses)),
        "margin": _counted(margins, _margin_edges(margins)),
        "sizes": {part: [len(models.index(part)), len(models.split.index(part))] for part in models.parts},
        "models": {row: len(next(iter(parts.values()))) for row, parts in seen.items()},
    }


def _all(values: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([part for parts in values.values() for part in parts.values()])


def _loss_edges(losses: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    values = _all(losses)
    low = max(FLOOR, float(values.min()))
    return np.geomspace(low, max(10 * low, float(values.max()) * (1 + 1e-9)), BINS + 1)


def _margin_edges(margins: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    low, high = (float(value) for value in np.quantile(_all(margins), (0.002, 0.998)))
    return np.linspace(low, max(high, low + 1e-3), BINS + 1)


def _counted(values: dict[str, dict[str, np.ndarray]], edges: np.ndarray) -> dict[str, Any]:
    edges = np.array(short(edges))
    rows = {
        row: {part: np.histogram(np.clip(held, edges[0], edges[-1]), edges)[0].tolist() for part, held in parts.items()}
        for row, parts in values.items()
    }
    return {"edges": edges.tolist(), "rows": rows}
