"""The area under the ROC curve, and the operating points on it."""

from typing import NamedTuple

import numpy as np

from expunge import statistics

MEASURABLE = 10
"""A rate at a false positive rate is printed when at least so many negatives may lie above the threshold."""


class Area(NamedTuple):
    """An area under the ROC curve and its standard error; None where the estimate has none."""

    value: float
    standard_error: float | None


class Rate(NamedTuple):
    """A true positive rate at a false positive rate.

    Attributes:
        value: the rate; None where it cannot be measured.
        standard_error: the threshold's noise included; None where it cannot be estimated.
        reason: why there is no value; empty otherwise.
    """

    value: float | None
    standard_error: float | None
    reason: str


class CalibratedRate(NamedTuple):
    """Both rates at a threshold that other negatives chose, each with its Clopper-Pearson interval."""

    threshold: float
    true_positive: statistics.Interval
    false_positive: statistics.Interval


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
    allowed = _allowed(at, len(negative))
    if allowed < MEASURABLE:
        return None
    return float(np.mean(positive > _threshold(negative, allowed)))


def tpr_at_fpr(positive: np.ndarray, negative: np.ndarray, at: float) -> Rate:
    """Return the rate of `true_positive_rate` with its standard error, or the reason why there is none.

    The density ratio at the threshold is read off the ROC curve between half and one and a half times the false positive rate.
    """
    allowed = _allowed(at, len(negative))
    if allowed < MEASURABLE or not len(positive):
        needed = int(np.ceil(MEASURABLE / at))
        reason = f"not measurable at n = {len(negative)}: a false positive rate of {at:g} needs {needed} negatives and one positive"
        return Rate(None, None, reason)
    value = float(np.mean(positive > _threshold(negative, allowed)))
    half = allowed // 2
    above, below = (float(np.mean(positive > _threshold(negative, allowed + step))) for step in (half, -half))
    density_ratio = (above - below) * len(negative) / (2 * half)
    return Rate(value, true_positive_rate_error(value, density_ratio, at, len(positive), len(negative)), "")


def calibrated_rate(positive: np.ndarray, negative: np.ndarray, calibration: np.ndarray, at: float) -> CalibratedRate | None:
    """Return both rates at the threshold that ``calibration`` (other negatives) sets; None when that is too few for it.

    Here the false positive rate is measured, not assumed: a calibration set of another law shows.
    """
    allowed = _allowed(at, len(calibration))
    if allowed < MEASURABLE:
        return None
    threshold = _threshold(calibration, allowed)
    hits, alarms = (int(np.sum(group > threshold)) for group in (positive, negative))
    intervals = statistics.clopper_pearson(hits, len(positive)), statistics.clopper_pearson(alarms, len(negative))
    return CalibratedRate(float(threshold), *intervals)


def _allowed(at: float, negatives: int) -> int:
    return int(np.floor(at * negatives + 1e-9))


def _threshold(negative: np.ndarray, allowed: int) -> float:
    """Return the value that at most ``allowed`` negatives exceed: the smallest such threshold for a strict comparison."""
    if allowed >= len(negative):
        return -np.inf
    return float(np.partition(negative, len(negative) - 1 - allowed)[len(negative) - 1 - allowed])


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


def held_out_advantage(positive: np.ndarray, negative: np.ndarray, seed: int = 0) -> float:
    """Return the true minus false positive rate on one half at the threshold that is best on the other; unbiased, may be below 0."""
    generator = np.random.default_rng(seed)
    mixed = [generator.permutation(group) for group in (positive, negative)]
    choose, judge = [[group[start::2] for group in mixed] for start in (0, 1)]
    values = np.unique(np.concatenate(choose))
    gain = sum(sign * np.searchsorted(np.sort(group), values) / len(group) for sign, group in zip((-1, 1), choose, strict=True))
    threshold = values[np.argmax(gain)]
    return float(np.mean(judge[0] >= threshold) - np.mean(judge[1] >= threshold))


def normal_areas(shift: float) -> dict[str, float]:
    """Return what the best attack reaches on N(0, 1) against N(shift, 1): ``auc``, ``advantage``, ``kl`` and ``squared_hellinger``.

    For checks and for reading a result as "as visible as a shift of so many standard deviations".
    """
    from scipy import stats

    return {
        "auc": float(stats.norm.cdf(shift / np.sqrt(2))),
        "advantage": float(2 * stats.norm.cdf(abs(shift) / 2) - 1),
        "kl": shift**2 / 2,
        "squared_hellinger": float(1 - np.exp(-(shift**2) / 8)),
    }
