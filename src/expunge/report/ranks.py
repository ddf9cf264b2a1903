"""The place of each method among all, test by test: which lies closest to the retrained models."""

from typing import Any

import numpy as np


def distance(value: float, band: dict[str, float], target: str) -> float:
    """Return how far a value lies from what it should be; values that cannot count against a method are all equally near.

    Args:
        value: of a cell.
        band: of the retrained models: low, high, mean.
        target: see `expunge.metrics.metric.Target`.
    """
    if target == "higher":
        return max(0.0, band["low"] - value)
    if target in ("lower", "zero_up_to_band"):
        return max(0.0, value - band["high"])
    return abs(value - band["mean"])


def mean_ranks(table: dict[str, Any]) -> dict[str, float]:
    """Return the mean place of each method over all tests that have a band, 1 for the closest; ties share a place.

    A method is placed on the tests that it was measured on. Methods without any are left out.
    """
    from scipy.stats import rankdata

    methods = [row for row in table["rows"] if row["role"] == "unlearned"]
    places: dict[str, list[float]] = {}
    for name, head in table["metrics"].items():
        if not head["tested"] or head["band"] is None:
            continue
        held = [row for row in methods if name in row["cells"]]
        found = [distance(row["cells"][name]["value"], head["band"], head["target"]) for row in held]
        for row, place in zip(held, rankdata(np.round(found, 12)) if found else [], strict=True):
            places.setdefault(row["name"], []).append(float(place))
    return {name: float(np.mean(held)) for name, held in places.items()}
