"""The attackers of the NeurIPS 2023 challenge and of source 003: for each example, tell N unlearned models from N retrained ones.

Each attacker takes one statistic of an example under many models, best the margin log(p / (1 - p)), and returns its error rates for all
examples at once. What privacy loss these rates stand for is computed elsewhere.
"""

from typing import NamedTuple

import numpy as np

from expunge.statistics import NotEnoughEvidence


class Rates(NamedTuple):
    """Error rates of an attacker for each example, float64 ``[n]``, or ``[rules, n]`` for a family of rules.

    Attributes:
        false_positive: share of retrained models called unlearned.
        false_negative: share of unlearned models called retrained.
        models: models of each kind that the rates are over.
    """

    false_positive: np.ndarray
    false_negative: np.ndarray
    models: int


def halves(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two random halves of the models, ``[N // 2, n]`` and ``[N - N // 2, n]``: one to fit on, one to score.

    Raises:
        NotEnoughEvidence: fewer than 4 models.
    """
    if len(values) < 4:
        raise NotEnoughEvidence(f"halves to fit on and to score need 4 models, there are {len(values)}")
    order = np.random.default_rng(seed).permutation(len(values))
    return values[order[: len(values) // 2]], values[order[len(values) // 2 :]]


def fixed_thresholds(unlearned: np.ndarray, retrained: np.ndarray, thresholds: np.ndarray | None = None) -> Rates:
    """Return the rates of "unlearned at or above t" for fixed t, ``[T, n]``; nothing is fitted, so nothing is held out.

    Args:
        unlearned: statistic ``[N, n]``.
        retrained: statistic ``[N', n]``.
        thresholds: ``[T]``; the margins of probability 0.1, 0.2, ..., 0.9 if None.

    Source: source 003 (ThresholdAttack at 0.1 to 0.9, on a probability).
    """
    if thresholds is None:
        probabilities = np.arange(1, 10) / 10
        thresholds = np.log(probabilities / (1 - probabilities))
    high = np.stack([(retrained >= threshold).mean(axis=0) for threshold in thresholds])
    low = np.stack([(unlearned < threshold).mean(axis=0) for threshold in thresholds])
    return Rates(high, low, min(len(unlearned), len(retrained)))


def best_threshold(unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0) -> Rates:
    """Return held-out rates of the threshold and side that are best on the other half of the models, for each example.

    Best is the smallest sum of both rates; a threshold lies midway between values. The published sweep fits and scores on the same
    models, which finds a difference where there is none.

    Source: source 003 (single threshold sweep).
    """
    (fit_u, score_u), (fit_r, score_r) = halves(unlearned, seed), halves(retrained, seed + 1)
    cuts, signs = zip(*(_cut(fit_u[:, i], fit_r[:, i]) for i in range(fit_u.shape[1])), strict=True)
    sign, cut = np.array(signs), np.array(cuts)
    return _rates(sign * (score_u - cut), sign * (score_r - cut))


def gaussian(unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0) -> Rates:
    """Return held-out rates of the more likely of two normal laws that are fitted on the other half of the models, for each example.

    With unequal variances the rule is an interval between the densities' two crossings, or its outside. The published code decides the
    outside as below either crossing, which is almost everywhere, and scores the models that it was fitted on.

    Source: source 003 (GaussianAttack), mended.
    """
    (fit_u, score_u), (fit_r, score_r) = halves(unlearned, seed), halves(retrained, seed + 1)
    laws = [(part.mean(axis=0), part.std(axis=0, ddof=1)) for part in (fit_u, fit_r)]
    smallest = 1e-6 * np.maximum(1e-12, np.abs(np.concatenate([fit_u, fit_r])).max(axis=0))
    (mean_u, spread_u), (mean_r, spread_r) = [(mean, np.maximum(spread, smallest)) for mean, spread in laws]

    def evidence(x: np.ndarray) -> np.ndarray:
        return ((x - mean_r) / spread_r) ** 2 / 2 + np.log(spread_r) - ((x - mean_u) / spread_u) ** 2 / 2 - np.log(spread_u)

    return _rates(evidence(score_u), evidence(score_r))


def logistic(unlearned: np.ndarray, retrained: np.ndarray, splits: int = 2, seed: int = 0, steps: int = 25) -> Rates:
    """Return held-out rates of a logistic regression on the statistic, ``[splits, n]``, one for each random split of the models.

    Ridge of 1/2 on the slope of the standardised statistic, as scikit-learn's C = 1; Newton steps for all examples at once.

    Source: source 003 (logistic regression, two stratified shuffle splits).
    """
    found = []
    for split in range(splits):
        (fit_u, score_u), (fit_r, score_r) = halves(unlearned, 2 * (seed + split)), halves(retrained, 2 * (seed + split) + 1)
        both = np.concatenate([fit_u, fit_r])
        mean, spread = both.mean(axis=0), both.std(axis=0)
        spread = np.where(spread > 0, spread, 1)
        slope, offset = _logistic_fit((both - mean) / spread, np.repeat([1.0, 0.0], [len(fit_u), len(fit_r)]), steps)
        found.append(_rates(*(slope * (part - mean) / spread + offset for part in (score_u, score_r))))
    return Rates(np.stack([part.false_positive for part in found]), np.stack([part.false_negative for part in found]), found[0].models)


def families(unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0) -> dict[str, Rates]:
    """Return the rates of every attacker family, by name."""
    return {
        "fixed_thresholds": fixed_thresholds(unlearned, retrained),
        "best_threshold": best_threshold(unlearned, retrained, seed),
        "gaussian": gaussian(unlearned, retrained, seed),
        "logistic": logistic(unlearned, retrained, seed=seed),
    }


def _rates(score_of_unlearned: np.ndarray, score_of_retrained: np.ndarray) -> Rates:
    """Return the rates of "unlearned above 0"; a score of exactly 0 counts as half."""
    high = (score_of_retrained > 0).mean(axis=0) + (score_of_retrained == 0).mean(axis=0) / 2
    low = (score_of_unlearned < 0).mean(axis=0) + (score_of_unlearned == 0).mean(axis=0) / 2
    return Rates(high, low, min(len(score_of_unlearned), len(score_of_retrained)))


def _cut(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[float, float]:
    """Return the threshold and the side (1: unlearned above it) with the smallest sum of error rates."""
    values = np.unique(np.concatenate([unlearned, retrained]))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    below_u = np.searchsorted(np.sort(unlearned), cuts) / len(unlearned)
    below_r = np.searchsorted(np.sort(retrained), cuts) / len(retrained)
    difference = below_r - below_u
    place = int(np.argmax(np.abs(difference)))
    return float(cuts[place]), 1.0 if difference[place] >= 0 else -1.0


def _logistic_fit(x: np.ndarray, y: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    slope, offset = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(slope * x + offset)))
        error, weight = p - y[:, None], p * (1 - p)
        gradient = (error * x).sum(axis=0) + slope, error.sum(axis=0)
        a, b, c = (weight * x * x).sum(axis=0) + 1, (weight * x).sum(axis=0), weight.sum(axis=0) + 1e-9
        determinant = a * c - b * b
        slope, offset = (
            slope - (c * gradient[0] - b * gradient[1]) / determinant,
            offset - (a * gradient[1] - b * gradient[0]) / determinant,
        )
    return slope, offset
