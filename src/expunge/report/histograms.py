"""Losses -> shares in shared bins, small enough to travel inside a report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expunge.errors import BadInput

BINS = 40
FLOOR = 1e-5
"""Nats. A smaller loss means "certain"; without a floor such losses would take half of a logarithmic axis."""


def shares(losses: Mapping[str, Mapping[str, np.ndarray]], bins: int = BINS) -> dict[str, Any]:
    """Return histograms of every row and part over the same logarithmic bins.

    Args:
        losses: row -> part -> cross-entropies in nats, ``[n]`` or ``[seeds, n]``; all seeds count alike.
        bins: how many.

    Returns:
        ``{"edges": [bins + 1], "rows": {row: {part: [bins]}}}``; the shares of a part sum to 1. The first bin also holds all losses
        below its lower edge.

    Raises:
        BadInput: a part without examples, or a loss that is negative or not finite.
    """
    arrays = {row: {part: _checked(values, f"{row}.{part}") for part, values in parts.items()} for row, parts in losses.items()}
    everything = [values for parts in arrays.values() for values in parts.values()]
    if not everything:
        raise BadInput("histograms", "there are no losses.", "Give the losses of one row or more.")
    edges = _edges(min(values.min() for values in everything), max(values.max() for values in everything), bins)
    rows = {row: {part: _shares(values, edges) for part, values in parts.items()} for row, parts in arrays.items()}
    return {"edges": [float(edge) for edge in edges], "rows": rows}


def _checked(values: np.ndarray, where: str) -> np.ndarray:
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not flat.size:
        raise BadInput(f"histograms.{where}", "holds no losses.", "Leave the part out.")
    if not np.isfinite(flat).all() or flat.min() < 0:
        raise BadInput(f"histograms.{where}", "holds losses that are negative or not finite.", "Leave diverged rows out.")
    return flat


def _edges(low: float, high: float, bins: int) -> np.ndarray:
    low = max(FLOOR, low)
    return np.geomspace(low, max(10 * low, high * (1 + 1e-9)), bins + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [float(share) for share in counts / len(values)]
