"""Distances of two pools' margins for each example that need no bins: normal Kullback-Leibler divergence and energy distance.

Both are corrected for the number of models, so that two pools of one law give 0 on average; single examples may be below 0.
"""

import numpy as np

from expunge.attacks import margins as matrices
from expunge.attacks.moments import Moments, moments
from expunge.attacks.set_level import discrepancies
from expunge.statistics import NotEnoughEvidence


def gaussian_kl(unlearned: np.ndarray, retrained: np.ndarray, debias: bool = True) -> np.ndarray:
    """Return KL(N_u || N_r) in nats of each example's fitted normal laws, float64 ``[n]``.

    (v_u / v_r - 1 - log(v_u / v_r) + (mean_u - mean_r)^2 / v_r) / 2, less its expectation for two pools of one law.

    Args:
        unlearned: margins, ``[models, n]``.
        retrained: margins, ``[other models, n]``.
        debias: whether `null_gaussian_kl` is subtracted.

    Raises:
        BadInput: matrices that do not fit or are not finite.
        NotEnoughEvidence: fewer than 2 unlearned or 4 retrained models, or an example whose margins do not vary.
    """
    matrices.check_pair(unlearned, retrained)
    offset = null_gaussian_kl(len(unlearned), len(retrained)) if debias else 0.0
    return kl_of_moments(moments(unlearned), moments(retrained)) - offset


def relabelled_kl(pool: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean over examples of `gaussian_kl` for many divisions of one pool of models, float64 ``[divisions]``.

    Args:
        pool: margins, ``[models, n]``.
        chosen: which models are called unlearned, bool ``[divisions, models]``, equally many in each; the others are the retrained ones.

    Raises:
        BadInput: margins that are not finite.
        NotEnoughEvidence: as `gaussian_kl`.
    """
    matrices.check(pool)
    sides = [side.astype(np.float64) for side in (chosen, ~chosen)]
    total = np.zeros(len(chosen))
    for part in matrices.chunks((len(pool) + 4 * len(chosen), pool.shape[1])):
        block = pool[:, part].astype(np.float64)
        block -= block.mean(axis=0)
        total += kl_of_moments(*(_moments_of(side, block) for side in sides)).sum(axis=1)
    return total / pool.shape[1] - null_gaussian_kl(int(chosen[0].sum()), int((~chosen[0]).sum()))


def _moments_of(weights: np.ndarray, block: np.ndarray) -> Moments:
    count = weights.sum(axis=1, keepdims=True)
    mean = weights @ block / count
    squares = np.maximum(weights @ block**2 - count * mean**2, 0.0)
    return Moments(np.broadcast_to(count, mean.shape), mean, squares)


def kl_of_moments(unlearned: Moments, retrained: Moments) -> np.ndarray:
    """Return the plug-in KL(N_u || N_r) in nats, float64 ``[n]``; biased up.

    Raises:
        NotEnoughEvidence: an example whose margins do not vary in a pool: its divergence is infinite or undefined.
    """
    variances = unlearned.variance, retrained.variance
    flat = int((~((variances[0] > 0) & (variances[1] > 0))).sum())
    if flat:
        raise NotEnoughEvidence(f"{flat} of {variances[0].size} examples have margins that do not vary over the models of a pool")
    ratio = variances[0] / variances[1]
    return (ratio - 1 - np.log(ratio) + (unlearned.mean - retrained.mean) ** 2 / variances[1]) / 2


def null_gaussian_kl(unlearned_models: int, retrained_models: int) -> float:
    """Return the plug-in divergence's expectation for two pools of one normal law: .0205 at 100 models each. Exact.

    The ratio of variances follows an F law, and the squared difference of means over the variance a scaled one.

    Raises:
        NotEnoughEvidence: fewer than 2 unlearned or 4 retrained models: the expectation does not exist.
    """
    from scipy import special

    if unlearned_models < 2 or retrained_models < 4:
        raise NotEnoughEvidence(f"needs 2 unlearned and 4 retrained models, there are {unlearned_models} and {retrained_models}")
    one, zero = (unlearned_models - 1) / 2, (retrained_models - 1) / 2
    inflation = zero / (zero - 1)
    log_ratio = special.digamma(one) - np.log(one) - special.digamma(zero) + np.log(zero)
    return float((inflation - 1 - log_ratio + (1 / unlearned_models + 1 / retrained_models) * inflation) / 2)


def energy_distance(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Return 2 E|U - R| - E|U - U'| - E|R - R'| of each example, float64 ``[n]``, in the margins' unit. Unbiased.

    Raises:
        BadInput: matrices that do not fit or are not finite.
        NotEnoughEvidence: fewer than 2 models in a pool.
    """
    matrices.check_pair(unlearned, retrained)
    n1, n0 = len(unlearned), len(retrained)
    if min(n1, n0) < 2:
        raise NotEnoughEvidence(f"an energy distance needs 2 models in each pool, there are {n1} and {n0}")
    result = np.empty(unlearned.shape[1])
    for part in matrices.chunks((n1 + n0, unlearned.shape[1])):
        one, zero = (np.ascontiguousarray(pool[:, part].T, dtype=np.float64) for pool in (unlearned, retrained))
        within = _pair_sum(one), _pair_sum(zero)
        across = _pair_sum(np.concatenate([one, zero], axis=1)) - within[0] - within[1]
        result[part] = 2 * across / (n1 * n0) - 2 * within[0] / (n1 * (n1 - 1)) - 2 * within[1] / (n0 * (n0 - 1))
    return result


def relabelled_energy(pool: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean over examples of `energy_distance` for many divisions of one pool of models, float64 ``[divisions]``.

    Args:
        pool: margins, ``[models, n]``.
        chosen: which models are called unlearned, bool ``[divisions, models]``, equally many in each; the others are the retrained ones.

    Raises:
        BadInput: margins that are not finite.
    """
    from scipy.spatial import distance

    matrices.check(pool)
    apart = distance.squareform(distance.pdist(pool.astype(np.float64), "cityblock")) / pool.shape[1]
    return discrepancies(-apart, chosen.T.astype(np.float64))


def _pair_sum(rows: np.ndarray) -> np.ndarray:
    """Return the sum of |a - b| over unordered pairs of each row, by sorting."""
    ordered = np.sort(rows, axis=1)
    size = ordered.shape[1]
    return (ordered - ordered[:, :1]) @ (2.0 * np.arange(size) - size + 1)
