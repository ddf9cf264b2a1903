"""Intervals, bands, tests, multiplicity, equivalence. scipy underneath.

The unit of replication is the training seed. Where the evidence is too thin for a number, a function raises `NotEnoughEvidence` with the
reason; none returns a default that could be printed as a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

EXACT_SIGN_FLIPS = 15
"""Up to this many pairs all sign patterns are enumerated."""


class NotEnoughEvidence(ValueError):
    """The number cannot be computed from so few models or examples. The message says what is missing."""


class Interval(NamedTuple):
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        mean: the point estimate.
        n: observations that it rests on.
        level: coverage, for example 0.95.
    """

    low: float
    high: float
    mean: float
    n: int
    level: float


@dataclass(frozen=True)
class Band:
    """Where the mean of new retrained models would lie: a Student t prediction interval.

    Attributes:
        mean: of the models that the band rests on.
        scale: standard error of (a new mean - ``mean``).
        degrees: of freedom.
        n: models that the band rests on.
        level: coverage.
    """

    mean: float
    scale: float
    degrees: int
    n: int
    level: float = 0.95

    @property
    def half_width(self) -> float:
        """Half of the band's width."""
        from scipy import stats

        return float(stats.t.ppf((1 + self.level) / 2, self.degrees)) * self.scale

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def p_value(self, value: float) -> float:
        """Return the two-sided p-value of a new mean; below 1 - level exactly when it lies outside the band."""
        from scipy import stats

        return float(2 * stats.t.sf(abs(value - self.mean) / self.scale, self.degrees))


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Return the mean with its Student t confidence interval.

    Raises:
        NotEnoughEvidence: fewer than 2 values.
    """
    from scipy import stats

    x = _finite(values)
    _at_least(len(x), 2, "an interval for the mean", "values")
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean() - half), float(x.mean() + half), float(x.mean()), len(x), level)


def prediction_band(values: Sequence[float] | np.ndarray, of_mean: int = 1, resolution: float = 0.0, level: float = 0.95) -> Band:
    """Return the band in which the mean of ``of_mean`` new models lies with probability ``level``: mean +- t s sqrt(1/of_mean + 1/n).

    Args:
        values: one for each retrained model.
        of_mean: over how many models the value that is to be judged is a mean; 1 for the usual prediction interval.
        resolution: the smallest spread to believe: what one example changes. Retrained models that agree exactly (all of them
            misclassify every image of a forgotten class) do not show that the next one will.
        level: coverage, for normal values.

    Raises:
        NotEnoughEvidence: fewer than 2 values, or values that do not vary and no resolution.
    """
    x = _finite(values)
    _at_least(len(x), 2, "a band", "retrained models")
    spread = _spread(float(x.std(ddof=1)), float(np.abs(x).max()), resolution, len(x))
    return Band(float(x.mean()), spread * float(np.sqrt(1 / of_mean + 1 / len(x))), len(x) - 1, len(x), level)


def pair_band(pairs: np.ndarray, of_mean: int = 1, resolution: float = 0.0, level: float = 0.95) -> Band:
    """Return the band of a pair metric between retrained models, for the mean of ``of_mean`` new pairs.

    Args:
        pairs: ``[n, n]``, entry (j, k) is model j compared with reference k; the diagonal is not read.
        of_mean: over how many pairs with different references the value that is to be judged is a mean.
        resolution: as in `prediction_band`.
        level: as in `prediction_band`.

    The n (n - 1) ordered pairs share models. Pairs with a common model correlate by at most 1/2, so that the observed variance is
    at least (n - 1) / (n + 1) of a fresh pair's, and the variance of the pairs' mean at most 2 / n of it. Both bounds are used, with
    n - 1 degrees of freedom: the band is rather too wide than too narrow (a false alarm in 0.3 to 3 % of cases instead of 5 %).

    Raises:
        NotEnoughEvidence: fewer than 3 models, or pairs that do not vary and no resolution.
    """
    n = len(pairs)
    _at_least(n, 3, "a retrained-against-retrained band", "retrained models")
    values = _finite(pairs[~np.eye(n, dtype=bool)])
    unordered = n * (n - 1) // 2
    variance = ((values - values.mean()) ** 2).sum() / 2 / (unordered - 1) * (n + 1) / (n - 1)
    spread = _spread(float(np.sqrt(variance)), float(np.abs(values).max()), resolution, n)
    return Band(float(values.mean()), spread * float(np.sqrt(1 / of_mean + 2 / n)), n - 1, n, level)


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Return the exact two-sided interval of a proportion.

    Raises:
        NotEnoughEvidence: no trials.
        ValueError: successes outside 0 to trials.
    """
    tail = (1 - level) / 2
    low = 1 - clopper_pearson_upper(trials - successes, trials, tail)
    return Interval(low, clopper_pearson_upper(successes, trials, tail), successes / trials, trials, level)


def clopper_pearson_upper(successes: int, trials: int, tail: float = 0.05) -> float:
    """Return the one-sided upper limit of a proportion that fails with probability at most ``tail``."""
    from scipy import stats

    _at_least(trials, 1, "a proportion", "trials")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie from 0 to {trials}, got {successes}")
    return 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))


def sign_flip_test(differences: Sequence[float] | np.ndarray, resamples: int = 100_000, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences being symmetric around 0, by flipping their signs.

    All 2^n patterns up to n = 15, else ``resamples`` random ones. The smallest possible value is 2^(1-n): with 5 pairs nothing is
    significant at 5 %.

    Raises:
        NotEnoughEvidence: no differences.
    """
    x = _finite(differences)
    n = len(x)
    _at_least(n, 1, "a sign-flip test", "pairs")
    if n <= EXACT_SIGN_FLIPS:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(_as_extreme(np.abs(signs @ x), x)))
    generator, hits = np.random.default_rng(seed), 0
    for start in range(0, resamples, 10_000):
        signs = generator.choice([-1.0, 1.0], size=(min(10_000, resamples - start), n))
        hits += int(_as_extreme(np.abs(signs @ x), x).sum())
    return (hits + 1) / (resamples + 1)


def _as_extreme(sums: np.ndarray, x: np.ndarray) -> np.ndarray:
    return sums >= np.abs(x.sum()) - 1e-12 * np.abs(x).sum()


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return adjusted p-values, float64 ``[m]``: rejecting below alpha keeps the chance of any false rejection at most alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return adjusted p-values, float64 ``[m]``: rejecting below q keeps the expected share of false rejections at most q."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[::-1]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1)))
    return adjusted


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return a percentile bootstrap interval.

    Args:
        values: ``[n]``, resampled along n; or ``[models, examples]``, where models and examples are resampled both. Resampling only
            the examples would be too narrow, for all examples share the models.
        statistic: takes an array of the same number of axes.
        resamples: number of resamples.
        level: coverage.
        seed: of the resampling.

    Raises:
        NotEnoughEvidence: fewer than 2 entries along an axis.
    """
    x = np.asarray(values, dtype=np.float64)
    for size in x.shape:
        _at_least(size, 2, "a bootstrap", "entries along each axis")
    generator = np.random.default_rng(seed)
    draws = [float(statistic(x[np.ix_(*(generator.integers(size, size=size) for size in x.shape))])) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), float(statistic(x)), len(x), level)


def equivalence(differences: Sequence[float] | np.ndarray, low: float, high: float) -> float:
    """Return the p-value of two one-sided t tests: small means that the mean difference lies inside (low, high).

    Only this supports "as good as retraining". A large p-value of a test for a difference supports nothing.

    Args:
        differences: paired differences, one for each seed.
        low: lower margin, declared before the data are seen.
        high: upper margin.

    Raises:
        NotEnoughEvidence: fewer than 2 differences, or differences that do not vary.
        ValueError: the margins are not in order.
    """
    from scipy import stats

    x = _finite(differences)
    if not low < high:
        raise ValueError(f"expected low < high, got {low} and {high}")
    _at_least(len(x), 2, "an equivalence test", "pairs")
    error = _spread(float(x.std(ddof=1)), float(np.abs(x).max()), 0.0, len(x)) / np.sqrt(len(x))
    return float(max(stats.t.sf((x.mean() - low) / error, len(x) - 1), stats.t.cdf((x.mean() - high) / error, len(x) - 1)))


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise NotEnoughEvidence(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite")
    return x


def _at_least(found: int, needed: int, what: str, unit: str) -> None:
    if found < needed:
        raise NotEnoughEvidence(f"{what} needs {needed} {unit}, there {'is' if found == 1 else 'are'} {found}")


def _spread(observed: float, largest: float, resolution: float, n: int) -> float:
    # Equal values differ in the last bit after averaging; such a spread is rounding, not evidence.
    spread = max(observed if observed > 1e-12 * largest else 0.0, resolution)
    if spread == 0:
        raise NotEnoughEvidence(f"all {n} values are equal; a band of width 0 would reject everything")
    return spread
