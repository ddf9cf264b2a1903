"""What every metric should find on a ridge testbed, in closed form.

Arguments are the normal laws of margins under unlearned and under retrained models (`laws.Law.margins`), or, for an adversary who sees all
examples of one model together, their joint laws (`laws.Law.joint`). Natural logarithm.
"""

import numpy as np
from numpy.typing import ArrayLike

from expunge.attacks import epsilon as conversions
from expunge.errors import NotApplicable
from expunge.testbed.laws import Joint, Law, Margins


def shift(unlearned: Margins, retrained: Margins) -> np.ndarray:
    """Return each example's difference of means in standard deviations of the retrained margins, float64 ``[n]``."""
    _check_single(unlearned, retrained)
    return ((unlearned.mean - retrained.mean) / np.sqrt(retrained.variance))[0]


def gaussian_kl(unlearned: Margins, retrained: Margins) -> np.ndarray:
    """Return KL(unlearned || retrained) of each example in nats, float64 ``[n]``; half the squared shift for equal variances."""
    _check_single(unlearned, retrained)
    ratio = unlearned.variance[0] / retrained.variance[0]
    return (ratio - 1 - np.log(ratio) + shift(unlearned, retrained) ** 2) / 2


def example_auc(
    positive: Margins, negative: Margins, positive_mask: np.ndarray | None = None, negative_mask: np.ndarray | None = None
) -> np.ndarray:
    """Return P(a positive margin is above a negative one) of each example, float64 ``[n]``; NaN where a side has no model.

    Exact for pools whose models have laws of their own too: the mean over pairs of models. Independent models are compared.

    Args:
        positive: laws, ``[m, n]``.
        negative: laws, ``[other m, n]``.
        positive_mask: which models count for which example, bool of its shape; None for all.
        negative_mask: likewise.
    """
    masks = [np.ones(side.mean.shape) if mask is None else mask for side, mask in ((positive, positive_mask), (negative, negative_mask))]
    total, pairs = np.zeros(positive.mean.shape[1]), np.zeros(positive.mean.shape[1])
    for mean, variance, counts in zip(positive.mean, positive.variance, masks[0], strict=True):
        weights = counts * masks[1]
        total += (weights * _normal_cdf((mean - negative.mean) / np.sqrt(variance + negative.variance))).sum(axis=0)
        pairs += weights.sum(axis=0)
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)


def attack_auc(unlearned: Margins, retrained: Margins, attack_models: int | None = None) -> np.ndarray:
    """Return each example's AUC of an attack that takes the direction of the shift from other models, float64 ``[n]``, at least .5.

    The likelihood-ratio attack with equal variances is linear in the margin: its AUC is max(AUC, 1 - AUC) when its models
    show the right direction, and 1 less that when they do not.

    Args:
        unlearned: laws.
        retrained: laws.
        attack_models: models a side that the attack was fitted on; None for an attacker who knows the laws.
    """
    area, right = example_auc(unlearned, retrained), np.ones(unlearned.mean.shape[1])
    if attack_models is not None:
        error = np.sqrt((unlearned.variance[0] + retrained.variance[0]) / attack_models)
        right = _normal_cdf(np.abs(unlearned.mean - retrained.mean)[0] / error)
    return 0.5 + np.abs(area - 0.5) * (2 * right - 1)


def rate(unlearned: Margins, retrained: Margins, at: float) -> np.ndarray:
    """Return each example's true positive rate at a false positive rate, float64 ``[n]``, of the best threshold on the margin's shift."""
    from scipy import special

    _check_single(unlearned, retrained)
    spread = np.sqrt(retrained.variance / unlearned.variance)[0]
    return _normal_cdf((np.abs(shift(unlearned, retrained)) + special.ndtri(at)) * spread)


def population_auc(positive: Margins, negative: Margins) -> float:
    """Return the AUC of one threshold for all examples: a margin of any example and model against one of any other.

    Args:
        positive: laws, ``[m, n]``.
        negative: laws of the same or of other examples, ``[other m, other n]``; independent of the positives, as of other models.
    """
    one, zero = (Margins(side.mean.ravel(), side.variance.ravel()) for side in (positive, negative))
    areas = [
        _normal_cdf((mean - zero.mean) / np.sqrt(variance + zero.variance)).mean()
        for mean, variance in zip(one.mean, one.variance, strict=True)
    ]
    return float(np.mean(areas))


def population_rate(positive: Margins, negative: Margins, at: float) -> float:
    """Return the true positive rate at a false positive rate of one threshold for all examples."""
    from scipy import optimize

    def above(threshold: float, side: Margins) -> float:
        return float(_normal_cdf((side.mean - threshold) / np.sqrt(side.variance)).mean())

    width = 40 * float(np.sqrt(negative.variance.max()))
    low, high = float(negative.mean.min()) - width, float(negative.mean.max()) + width
    threshold = optimize.brentq(lambda value: above(value, negative) - at, low, high, xtol=1e-12)
    return above(threshold, positive)


def one_model_auc(law: Law, x: np.ndarray, labels: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the expected AUC between two sets of examples under one model, by margin or, the same, by loss.

    Unlike `population_auc`, both sides are the same model's, whose margins are correlated.

    Args:
        law: of the weights, one for all models.
        x: features of all examples, ``[n, d]``.
        labels: int64 ``[n]``.
        positives: indices.
        negatives: indices.
    """
    both = np.concatenate([positives, negatives])
    mean, covariance = law.joint(x[both], labels[both])
    cut, variance = len(positives), np.diag(covariance)
    spread = variance[:cut, None] + variance[cut:] - 2 * covariance[:cut, cut:]
    return float(_normal_cdf((mean[:cut, None] - mean[cut:]) / np.sqrt(np.maximum(spread, 1e-300))).mean())


def accuracy(margins: Margins) -> float:
    """Return the expected share of right answers with two classes, 0 to 1."""
    return float(_normal_cdf(margins.mean / np.sqrt(margins.variance)).mean())


def set_auc(unlearned: Joint, retrained: Joint) -> float:
    """Return the best AUC of a linear test that sees all examples of a model at once; of any test, for equal covariances.

    Phi of the root of d' (S_u + S_r)^-1 d; Phi(|d| / sqrt 2) for independent margins of unit variance.
    """
    return float(_normal_cdf(_distance(unlearned.mean - retrained.mean, unlearned.covariance + retrained.covariance)))


def set_shift(unlearned: Joint, retrained: Joint) -> float:
    """Return mu of Gaussian differential privacy for an adversary who sees all examples at once: the trade-off is N(0, 1), N(mu, 1).

    Raises:
        NotApplicable: the covariances differ, so that the trade-off is not that of two shifted normal laws.
    """
    gap = np.abs(unlearned.covariance - retrained.covariance).max() / np.abs(retrained.covariance).max()
    if gap > 1e-8:
        problem = f"the covariances of unlearned and retrained models differ by {gap:.2g} of the largest entry; there is no mu."
        raise NotApplicable("truth", problem, "Use set_auc, or example_epsilon for single examples.")
    return _distance(unlearned.mean - retrained.mean, retrained.covariance)


def set_epsilon(unlearned: Joint, retrained: Joint, delta: float = conversions.DELTA) -> float:
    """Return the epsilon at which the two laws are (epsilon, delta)-close: no attack on the outputs can show more.

    Raises:
        NotApplicable: the covariances differ.
    """
    return conversions.gaussian_epsilon(set_shift(unlearned, retrained), delta)


def example_epsilon(unlearned: Margins, retrained: Margins, delta: float = conversions.DELTA) -> np.ndarray:
    """Return each example's epsilon at which its two laws are (epsilon, delta)-close, float64 ``[n]``; variances may differ."""
    _check_single(unlearned, retrained)
    ratio = np.sqrt(unlearned.variance / retrained.variance)[0]
    pairs = zip(shift(unlearned, retrained), ratio, strict=True)
    return np.array([_epsilon(float(moved), float(scale), delta) for moved, scale in pairs])


def _epsilon(moved: float, scale: float, delta: float) -> float:
    """Return the epsilon of N(moved, scale^2) and N(0, 1)."""
    from scipy import optimize

    def excess(epsilon: float) -> float:
        return max(_exceeds(moved, scale, epsilon), _exceeds(-moved / scale, 1 / scale, epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-10))


def _exceeds(moved: float, scale: float, epsilon: float) -> float:
    """Return the largest P(B) - exp(epsilon) Q(B) for P = N(moved, scale^2), Q = N(0, 1): over B where log p/q is above epsilon."""
    square, half, constant = (1 - scale**-2) / 2, moved / scale**2, -np.log(scale) - (moved / scale) ** 2 / 2 - epsilon
    # log p/q - epsilon = square x^2 + half x + constant
    if abs(square) < 1e-12:
        if half == 0:
            return 0.0
        cut = -constant / half
        low, high = (cut, np.inf) if half > 0 else (-np.inf, cut)
        return _mass(low, high, moved, scale) - np.exp(epsilon) * _mass(low, high, 0.0, 1.0)
    root = half**2 - 4 * square * constant
    if root <= 0:
        return max(0.0, 1 - np.exp(epsilon)) if square > 0 else 0.0
    low, high = sorted((-half + sign * np.sqrt(root)) / (2 * square) for sign in (-1, 1))
    if square < 0:
        return _mass(low, high, moved, scale) - np.exp(epsilon) * _mass(low, high, 0.0, 1.0)
    mine, theirs = (_mass(-np.inf, low, *law) + _mass(high, np.inf, *law) for law in ((moved, scale), (0.0, 1.0)))
    return mine - np.exp(epsilon) * theirs


def _mass(low: float, high: float, mean: float, deviation: float) -> float:
    """Return the normal law's mass of an interval, precise in both tails."""
    a, b = (low - mean) / deviation, (high - mean) / deviation
    return float(_normal_cdf(-a) - _normal_cdf(-b)) if a > 0 else float(_normal_cdf(b) - _normal_cdf(a))


def _distance(difference: np.ndarray, covariance: np.ndarray) -> float:
    """Return the Mahalanobis length; directions in which nothing varies hold no difference either, as both come from the weights."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-10 * values[-1]
    return float(np.linalg.norm((difference @ vectors)[kept] / np.sqrt(values[kept])))


def _normal_cdf(values: ArrayLike) -> np.ndarray:
    from scipy import special

    return special.ndtr(values)


def _check_single(*sides: Margins) -> None:
    most = max(len(side.mean) for side in sides)
    if most > 1:
        raise NotApplicable("truth", f"{most} models have laws of their own; together they are a mixture.", "Use example_auc.")
