"""The forgetting quality F of the NeurIPS 2023 unlearning challenge, exactly and fast, and its value for a perfect method.

F is the mean over forget examples of a score that halves with every 0.5 of an example's estimated epsilon. It is NOT 1 for retraining:
its estimate takes the best of 160,000 rules on the models that it is judged on, so that two pools of one law give about 0.19 at 512
models and a deviation of the margins of 1 or more, and other values below, since the grid's step is fixed. Print F beside `null_quality`
at the same deviations, or beside F of two halves of the retrained models.
"""

from typing import NamedTuple

import numpy as np

from expunge.attacks import margins as matrices
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence

DELTA, CAP = 1e-5, 50.0
_PER_UNIT, _BUFFER, _WIDTH = 100, 2.0, 0.5


class Quality(NamedTuple):
    """Forgetting quality.

    Attributes:
        value: F, from 0 to 1.
        standard_error: from the sampling of forget examples alone.
        epsilons: each example's estimate, float64 ``[n]``, 0 to 50.
    """

    value: float
    standard_error: float
    epsilons: np.ndarray


def forgetting_quality(unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA) -> Quality:
    """Return F of equally many unlearned and retrained models.

    Args:
        unlearned: margins of the forget examples, ``[models, n]``. The challenge unlearned one original with different seeds.
        retrained: the same of models trained without them, ``[models, n]``.
        delta: of (epsilon, delta).

    Raises:
        BadInput: matrices that do not fit or are not finite.
        NotEnoughEvidence: no rule makes both errors on some example; the published code stops there as well.

    Source: google-deepmind/unlearning_evaluation, metric.py, and the challenge's metric document; rules restated, not copied.
    The published "means" are medians, and its last bin ends at ceil(log(models - 1)).
    """
    matrices.check_pair(unlearned, retrained)
    if len(unlearned) != len(retrained):
        found = f"{len(unlearned)} unlearned and {len(retrained)} retrained models; the score takes equally many."
        raise BadInput("margins", found, "Leave models of the larger pool out.")
    values = epsilons(unlearned, retrained, delta)
    unknown = int(np.isnan(values).sum())
    if unknown:
        raise NotEnoughEvidence(
            f"{unknown} of {len(values)} examples have no rule that errs on both sides with {len(unlearned)} models each"
        )
    points = score(values, len(unlearned))
    error = float(points.std(ddof=1) / np.sqrt(len(points))) if len(points) > 1 else float("nan")
    return Quality(float(points.mean()), error, values)


def epsilons(unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """Return each example's estimated epsilon, float64 ``[n]``, 0 to 50; NaN where every rule is discarded."""
    values = np.empty(unlearned.shape[1])
    for part in matrices.chunks((len(unlearned) + len(retrained), unlearned.shape[1])):
        one, zero = (np.ascontiguousarray(pool[:, part].T, dtype=np.float64) for pool in (unlearned, retrained))
        one.sort(axis=1)
        zero.sort(axis=1)
        values[part] = [_epsilon(first, second, delta) for first, second in zip(one, zero, strict=True)]
    return values


def score(epsilon: np.ndarray, models: int) -> np.ndarray:
    """Return 2^-bin for each epsilon, float64 ``[n]``: bins of 0.5 up to ceil(log(models - 1)); 0 beyond."""
    bins = np.floor(epsilon / _WIDTH)
    return np.where(bins < np.ceil(np.log(models - 1)) / _WIDTH, 2.0**-bins, 0.0)


def null_quality(deviations: np.ndarray, models: int, examples: int = 200, seed: int = 0) -> Quality:
    """Return F between two pools of one normal law: what a perfect method would get.

    Args:
        deviations: standard deviation of the retrained margins of each forget example, ``[n]``; each simulated example takes one.
        models: of each pool.
        examples: simulated.
        seed: of the simulation.
    """
    generator = np.random.default_rng(seed)
    width = generator.choice(np.asarray(deviations, dtype=np.float64), examples)
    first, second = (generator.normal(size=(models, examples)) * width for _ in range(2))
    return forgetting_quality(first, second)


def final_score(quality: float, retain: tuple[float, float], test: tuple[float, float]) -> float:
    """Return F x RA_U / RA_R x TA_U / TA_R. Each pair is (unlearned, retrained) mean accuracy; ratios above 1 are not capped."""
    return quality * retain[0] / retain[1] * test[0] / test[1]


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray, delta: float) -> float:
    """Return the estimate for one example from both pools' sorted margins."""
    ranges = unlearned[-1] - unlearned[0], retrained[-1] - retrained[0]
    if min(ranges) < 0.01 * max(ranges) or max(ranges) == 0:
        return CAP
    retrained_above = np.median(retrained) > np.median(unlearned)
    pair = (retrained, unlearned) if retrained_above else (unlearned, retrained)
    best = max(_best_ratio(*_single(*pair), delta), _best_ratio(*_interval(*pair), delta), key=lambda ratio: (ratio == ratio, ratio))
    return best if np.isnan(best) else float(np.clip(np.log(max(best, 1.0)), 0.0, CAP))


def _best_ratio(missed: np.ndarray, alarms: np.ndarray, positives: int, negatives: int, delta: float) -> float:
    """Return exp(epsilon) of the best rule: infinite for a rule without errors; NaN when no rule errs on both sides."""
    both = (missed > 0) & (alarms > 0)
    if (~both & (missed == alarms)).any():
        return np.inf
    fnr, fpr = missed[both] / positives, alarms[both] / negatives
    if not len(fnr):
        return np.nan
    ratios = np.maximum((1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr)
    best = float(ratios.max())
    return best if best > 0 else np.nan


def _single(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return both errors of "positive at or above a threshold", thresholds in float32 over the joint range."""
    low, high = min(positive[0], negative[0]), max(positive[-1], negative[-1])
    thresholds = np.linspace(np.float32(low), np.float32(high), int(np.ceil((high - low) * _PER_UNIT)), dtype=np.float32).astype(np.float64)
    missed = np.searchsorted(positive, thresholds, side="left")
    alarms = len(negative) - np.searchsorted(negative, thresholds, side="left")
    return missed, alarms, len(positive), len(negative)


def _interval(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return both errors of "positive from left to right end", positive being the pool with the smaller range."""
    if positive[-1] - positive[0] >= negative[-1] - negative[0]:
        positive, negative = negative, positive
    width = positive[-1] - positive[0]
    low, high = positive[0] + width - _BUFFER, positive[-1] + _BUFFER
    rights = np.linspace(low, high, int(np.ceil((high - low) * _PER_UNIT)))
    lefts = np.linspace(rights - width - _BUFFER, rights - width + _BUFFER, int(np.ceil(2 * _BUFFER * _PER_UNIT)), axis=1)
    merged = np.append(np.sort(np.concatenate([positive, negative])), np.inf)
    below = np.searchsorted(merged, lefts)
    inside = [_between(group, merged, below, rights) for group in (positive, negative)]
    return len(positive) - inside[0], inside[1], len(positive), len(negative)


def _between(values: np.ndarray, merged: np.ndarray, below: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """Return how many of the sorted values lie in each closed interval, int32 ``[rights, lefts]``.

    Args:
        values: of one pool, sorted.
        merged: of both pools, sorted, infinity last.
        below: how many of ``merged`` lie below each left end, ``[rights, lefts]``: one search serves both pools.
        rights: right ends.
    """
    values_below = np.searchsorted(values, merged).astype(np.int32)
    counts = np.searchsorted(values, rights, side="right").astype(np.int32)[:, None] - values_below[below]
    return np.maximum(counts, 0, out=counts)
