"""The robust membership-inference attack: how often an example's likelihood ratio beats that of population examples.

For one target model its ROC is that of the ratio itself, whatever gamma and the population are (up to ties); the population only puts
scores of different target models on one scale. It works with one to four reference models.
"""

import numpy as np

from expunge.attacks import margins as matrices
from expunge.attacks.roc import auc
from expunge.errors import BadInput
from expunge.statistics import NotEnoughEvidence


def probability(margins: np.ndarray) -> np.ndarray:
    """Return the true class's probability, float64, from margins."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(margins, dtype=np.float64)))


def reference_online(margins: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the mean of the two groups' mean probabilities, float64 ``[n]``.

    Args:
        margins: of reference models, ``[models, n]``.
        inside: whether each trained on each example, bool ``[models, n]``.

    Raises:
        NotEnoughEvidence: an example without a model on a side.

    Source: Zarifzadeh, Liu & Shokri, ICML 2024, equation 9. Masked means: no model is dropped where the design is unbalanced.
    """
    return (_masked_mean(margins, inside) + _masked_mean(margins, ~inside)) / 2


def reference_offline(margins: np.ndarray, inside: np.ndarray | None = None, scale: float = 0.3) -> np.ndarray:
    """Return ((1 + a) p_out + (1 - a)) / 2, float64 ``[n]``: the mean probability guessed from models that did not train on it.

    Args:
        margins: of reference models, ``[models, n]``.
        inside: which trained on each example, bool ``[models, n]``; None when none did, as for population examples.
        scale: a, from 0 to 1; see `choose_scale`.

    Raises:
        BadInput: a scale outside 0 to 1.
        NotEnoughEvidence: an example without an outside model.

    Source: Zarifzadeh, Liu & Shokri, ICML 2024, appendix B.2.2.
    """
    if not 0 <= scale <= 1:
        raise BadInput("scale", f"expected a number from 0 to 1, got {scale}.")
    outside = np.ones(margins.shape, dtype=bool) if inside is None else ~inside
    return ((1 + scale) * _masked_mean(margins, outside) + (1 - scale)) / 2


def score(margins: np.ndarray, reference: np.ndarray, population: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Return the share of the population that each example's ratio beats by the factor gamma, float64 ``[n]``, 0 to 1.

    Args:
        margins: of the target model, ``[n]``.
        reference: mean probability under the reference models, ``[n]``.
        population: likelihood ratios of population examples (`ratio`), ``[z]``, none of them members of the target model.
        gamma: at least 1.

    Raises:
        BadInput: gamma below 1, or no population.

    Source: Zarifzadeh, Liu & Shokri, ICML 2024, equation 5; counted by sorting instead of an n x z matrix.
    """
    if gamma < 1 or not len(population):
        raise BadInput("rmia", f"expected gamma of at least 1 and a population, got {gamma} and {len(population)} examples.")
    return np.searchsorted(np.sort(population), ratio(margins, reference) / gamma, side="right") / len(population)


def ratio(margins: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the likelihood ratio p / reference, float64 ``[n]``."""
    return probability(margins) / reference


def choose_scale(margins: np.ndarray, inside: np.ndarray, grid: np.ndarray | None = None) -> float:
    """Return the offline scale a with which the first reference model is attacked best by the others (largest AUC).

    Args:
        margins: of reference models, ``[models, n]``, at least 3.
        inside: bool ``[models, n]``.
        grid: scales to try; 0, .1, ... 1 by default. The smallest of equally good ones is taken.

    Raises:
        NotEnoughEvidence: an example without an outside model among the others.
    """
    scales = np.linspace(0, 1, 11) if grid is None else np.asarray(grid)
    member = inside[0]

    def power(scale: float) -> float:
        ratios = ratio(margins[0], reference_offline(margins[1:], inside[1:], float(scale)))
        return auc(ratios[member], ratios[~member])

    return float(scales[int(np.argmax([power(scale) for scale in scales]))])


def _masked_mean(margins: np.ndarray, mask: np.ndarray) -> np.ndarray:
    matrices.check(margins)
    if mask.shape != margins.shape or mask.dtype != bool:
        raise BadInput("inside", f"expected bool {list(margins.shape)}, got {mask.dtype} {list(mask.shape)}.")
    count = mask.sum(axis=0)
    if not count.all():
        raise NotEnoughEvidence(f"{int((count == 0).sum())} of {len(count)} examples have no reference model on one side")
    total = np.empty(margins.shape[1])
    for part in matrices.chunks(margins.shape):
        total[part] = np.einsum("kn,kn->n", probability(margins[:, part]), mask[:, part].astype(np.float64))
    return total / count
