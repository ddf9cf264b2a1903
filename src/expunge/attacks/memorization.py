"""How much each example is memorised, and how far apart its margins lie with and without it: from one pool of models on random halves."""

from typing import NamedTuple

import numpy as np

from expunge.attacks import lira
from expunge.attacks.moments import moments
from expunge.errors import BadInput


class Memorization(NamedTuple):
    """Scores of all examples, float64 ``[n]``.

    Attributes:
        score: accuracy of the models that were trained on the example minus that of the others, -1 to 1.
        standard_error: of the score, from the two binomial variances; 0 where all models of each side agree.
    """

    score: np.ndarray
    standard_error: np.ndarray


def memorization(hits: np.ndarray, inside: np.ndarray) -> Memorization:
    """Return the difference of each example's mean hit between models with and without it.

    Args:
        hits: whether each model is right, bool ``[models, n]``, or the true class's probability, float.
        inside: whether each model was trained on each example, bool ``[models, n]``.

    Raises:
        BadInput: an example without models on a side.

    Source: Feldman, STOC 2020, section 1.1; Feldman & Zhang, NeurIPS 2020, algorithm 1.
    """
    counts = inside.sum(axis=0), (~inside).sum(axis=0)
    if min(counts[0].min(), counts[1].min()) < 1:
        raise BadInput("models", "an example is in all models, or in none.", "Use pairs of models on complementary halves.")
    values = hits.astype(np.float64)
    means = (values * inside).sum(axis=0) / counts[0], (values * ~inside).sum(axis=0) / counts[1]
    variance = means[0] * (1 - means[0]) / counts[0] + means[1] * (1 - means[1]) / counts[1]
    return Memorization(means[0] - means[1], np.sqrt(variance))


def largest_standard_error(models: int, share: float = 0.5) -> float:
    """Return the standard error of a memorisation score where models are right half of the time, in training or not: the worst case."""
    return 0.5 * float(np.sqrt(1 / (models * share) + 1 / (models * (1 - share))))


def separability(margins: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the distance of each example's mean margins with and without it, in standard deviations, float64 ``[n]``.

    With normal margins of equal variance this orders examples by the power of the likelihood-ratio attack at any false positive rate.
    The deviation is that within examples: pooled over all of them below 32 models of a side.

    Args:
        margins: true-class margins, ``[models, n]``.
        inside: whether each model was trained on each example, bool ``[models, n]``.

    Raises:
        NotEnoughEvidence: an example without models on a side, or margins that do not vary.
    """
    one, zero = moments(margins, inside), moments(margins, ~inside)
    lira.check_counts(one, "inside")
    lira.check_counts(zero, "outside")
    return (one.mean - zero.mean) / np.sqrt(lira.spreads(one, zero, "auto", "equal")[0])
