"""Standard errors over models and examples, and intervals from them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from expunge.audits.audit import Finding, Panel
from expunge.statistics import NotEnoughEvidence

GROUPS = 10
"""A side's models are left out in so many groups, or one by one where they are fewer."""


def interval(value: float, error: float | None, degrees: float | None, limits: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the 95 % Student interval, cut to the values that there are; None without an error."""
    from scipy import stats

    if error is None:
        return None
    half = error * float(stats.norm.ppf(0.975) if degrees is None else stats.t.ppf(0.975, degrees))
    low, high = limits or (-np.inf, np.inf)
    return max(low, value - half), min(high, value + half)


def jackknife(statistic: Callable[[Panel, Panel], float], candidate: Panel, reference: Panel) -> tuple[float, float] | None:
    """Return a statistic's standard error over the models of both sides, and its degrees of freedom.

    Groups of models are left out in turn. None where a statistic cannot be computed without a group.

    Source: Efron & Stein, Annals of Statistics 1981.
    """
    try:
        variances = [
            _left_out(lambda rows: statistic(candidate.take(rows), reference), candidate.models),
            _left_out(lambda rows: statistic(candidate, reference.take(rows)), reference.models),
        ]
    except NotEnoughEvidence:
        return None
    degrees = min(GROUPS, candidate.models, reference.models) - 1
    return float(np.sqrt(sum(variances))), float(degrees)


def _left_out(statistic: Callable[[np.ndarray], float], models: int) -> float:
    groups = min(GROUPS, models)
    member = np.arange(models) % groups
    values = np.array([statistic(np.flatnonzero(member != group)) for group in range(groups)])
    return float((groups - 1) / groups * ((values - values.mean()) ** 2).sum())


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return mean, median, 95th percentile and largest of per-example values."""
    middle, high = np.quantile(values, [0.5, 0.95])
    return {"mean": float(values.mean()), "q50": float(middle), "q95": float(high), "max": float(values.max())}


def mean_finding(values: np.ndarray, over_models: tuple[float, float] | None, details: dict[str, Any]) -> Finding:
    """Return the mean of per-example values with its interval over models (from `jackknife`) and examples."""
    value, examples = float(values.mean()), len(values)
    if over_models is None or examples < 2 or over_models[0] == 0:
        return Finding(value, None, None, {**details, "examples": examples})
    error = float(np.hypot(over_models[0], values.std(ddof=1) / np.sqrt(examples)))
    return Finding(value, error, interval(value, error, over_models[1], None), {**details, "examples": examples})
