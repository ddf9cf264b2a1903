"""How far a method has come from the original to retraining, for any metric: 0 is retrained, 1 is the original, below 0 is too far."""

from typing import Literal

import numpy as np

from expunge.statistics import Interval, NotEnoughEvidence

VISIBLE = 3.0
"""The original and the retrained models must differ by so many standard errors."""


def completeness(
    unlearned: np.ndarray,
    original: np.ndarray,
    retrained: np.ndarray,
    interval: Literal["fieller", "bootstrap"] = "fieller",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return (q(u) - q(r)) / (q(o) - q(r)) of a metric's means over paired training seeds, with its interval.

    Args:
        unlearned: the metric of each seed's unlearned model, ``[seeds]``.
        original: of the same seeds' originals.
        retrained: of the same seeds' retrained models.
        interval: ``fieller`` (exact for normal values) or ``bootstrap`` over seeds.
        level: coverage.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        NotEnoughEvidence: fewer than 3 seeds, values that are not finite, or an original that differs from retraining by less than 3
            standard errors: the ratio would be noise over noise.

    Source: Fieller, JRSS-B 1954.
    """
    u, o, r = (np.asarray(values, dtype=np.float64) for values in (unlearned, original, retrained))
    if not len(u) == len(o) == len(r) or len(u) < 3:
        raise NotEnoughEvidence(f"a completeness index needs 3 paired seeds, there are {len(u)}, {len(o)} and {len(r)}")
    above, below = u - r, o - r
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        raise NotEnoughEvidence("some values are not finite")
    error = below.std(ddof=1) / np.sqrt(len(below))
    if abs(below.mean()) <= VISIBLE * error:
        raise NotEnoughEvidence(
            f"original and retrained differ by {below.mean():.3g} with a standard error of {error:.3g}: too close to divide by"
        )
    low, high = _fieller(above, below, level) if interval == "fieller" else _bootstrap(above, below, level, resamples, seed)
    return Interval(low, high, float(above.mean() / below.mean()), len(u), level)


def _fieller(above: np.ndarray, below: np.ndarray, level: float) -> tuple[float, float]:
    from scipy import stats

    n = len(above)
    t = stats.t.ppf((1 + level) / 2, n - 1) ** 2 / n
    a, b = above.mean(), below.mean()
    va, vb, cov = above.var(ddof=1), below.var(ddof=1), np.cov(above, below)[0, 1]
    square, middle, constant = b**2 - t * vb, a * b - t * cov, a**2 - t * va
    if square <= 0:
        raise NotEnoughEvidence(f"with {n} seeds the interval of the ratio is unbounded at level {level}")
    root = np.sqrt(max(middle**2 - square * constant, 0.0))
    return float((middle - root) / square), float((middle + root) / square)


def _bootstrap(above: np.ndarray, below: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, float]:
    drawn = np.random.default_rng(seed).integers(len(above), size=(resamples, len(above)))
    ratios = above[drawn].mean(axis=1) / below[drawn].mean(axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
