"""The area under the ROC curve, and the operating points on it."""

from typing import NamedTuple

import numpy as np


class Area(NamedTuple):
    """An area under the ROC curve and its standard error; None where the estimate has none."""

    value: float
    standard_error: float | None


def midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, float64 ``[n]``; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(positive > negative) + P(equal) / 2 for scores of two groups, ``[n1]`` and ``[n0]``.

    0.5 means that the score tells nothing; above 0.5, that positives score higher. The direction is never flipped.

    Raises:
        ValueError: a group is empty.
    """
    if not len(positive) or not len(negative):
        raise ValueError(f"an AUC needs both groups, got {len(positive)} and {len(negative)} scores")
    n1, n0 = len(positive), len(negative)
    ranks = midranks(np.concatenate([positive, negative]))[:n1]
    return float((ranks.sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def area(positive: np.ndarray, negative: np.ndarray) -> Area:
    """Return the AUC with DeLong's standard error, in O(n log n).

    The error is None when a group has fewer than two scores, or when the groups are separated completely: the formula gives 0
    there, which is not its error.

    Source: DeLong et al., Biometrics 1988; Sun & Xu, IEEE SPL 2014 (midrank form).
    """
    value = auc(positive, negative)
    n1, n0 = len(positive), len(negative)
    if n1 < 2 or n0 < 2 or value in (0.0, 1.0):
        return Area(value, None)
    ranks = midranks(np.concatenate([positive, negative]))
    above = (ranks[:n1] - midranks(positive)) / n0
    below = 1 - (ranks[n1:] - midranks(negative)) / n1
    return Area(value, float(np.sqrt(np.var(above, ddof=1) / n1 + np.var(below, ddof=1) / n0)))


def null_standard_error(n1: int, n0: int) -> float:
    """Return the AUC's standard error when both groups have the same law and no ties."""
    return float(np.sqrt((n1 + n0 + 1) / (12 * n1 * n0)))


def true_positive_rate(positive: np.ndarray, negative: np.ndarray, at: float) -> float | None:
    """Return the share of positives above the smallest threshold whose empirical false positive rate is at most ``at``.

    No interpolation. None when fewer than 10 negatives may lie above the threshold: the number would be noise.
    """
    allowed = int(np.floor(at * len(negative) + 1e-9))
    if allowed < 10:
        return None
    threshold = np.sort(negative)[::-1][allowed] if allowed < len(negative) else -np.inf
    return float(np.mean(positive > threshold))


def true_positive_rate_error(rate: float, density_ratio: float, at: float, n1: int, n0: int) -> float:
    """Return the standard error of the rate, the noise of the threshold included.

    Args:
        rate: the true positive rate.
        density_ratio: density of positives over density of negatives at the threshold.
        at: the false positive rate.
        n1: number of positives.
        n0: number of negatives.
    """
    return float(np.sqrt(rate * (1 - rate) / n1 + density_ratio**2 * at * (1 - at) / n0))


def advantage(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the largest true minus false positive rate over thresholds, 0 to 1. Biased up: the threshold sees the scores."""
    values = np.sort(np.concatenate([positive, negative]))
    below_positive = np.searchsorted(np.sort(positive), values, side="right") / len(positive)
    below_negative = np.searchsorted(np.sort(negative), values, side="right") / len(negative)
    return float(max(0.0, (below_negative - below_positive).max()))
