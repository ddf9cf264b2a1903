"""How far a forget set is mixed with the retained data in a model's features."""

import numpy as np

from expunge.errors import BadInput


def entanglement(features: np.ndarray, forget: np.ndarray) -> float:
    """Return the entanglement score of a forget set: spread within the two sets over the distance between them; higher is more mixed.

    ``(mean |x - m_R|^2 + mean |x - m_S|^2) / ((|m_R - m|^2 + |m_S - m|^2) / 2)`` with the two means m_R, m_S and m halfway between them.

    Args:
        features: of all training examples, ``[n, D]``.
        forget: which of them are forgotten, bool ``[n]``.

    Raises:
        BadInput: a set is empty, or the two means are the same.

    Source: Zhao et al., RUM, NeurIPS 2024, arXiv 2406.01257, section 4; the middle of the two means as in the published code.
    """
    if not 0 < forget.sum() < len(forget):
        raise BadInput("entanglement", "one of the two sets is empty.", "Forget some examples and keep some.")
    sets = [features[rows].astype(np.float64) for rows in (~forget, forget)]
    means = [rows.mean(axis=0) for rows in sets]
    within = sum(float(((rows - mean) ** 2).sum(axis=1).mean()) for rows, mean in zip(sets, means, strict=True))
    between = float(((means[0] - means[1]) ** 2).sum()) / 4
    if between == 0:
        raise BadInput("entanglement", "both sets have the same mean features, so that the score is infinite.", "Choose another set.")
    return within / between


def by_distance(features: np.ndarray, size: int, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the entanglement scores of sets of neighbours in the order of distance from the center, and each example's place in it.

    Args:
        features: of all training examples, ``[n, D]``.
        size: examples in a set.
        sets: number of sets, evenly spread from the innermost to the outermost; they overlap where ``sets * size`` exceeds n.

    Returns:
        Scores, float64 ``[sets]``, and places, int64 ``[n]``. A set holds ``size`` places from its `start` on.
    """
    places = np.empty(len(features), dtype=np.int64)
    places[np.argsort(distances_to_center(features), kind="stable")] = np.arange(len(features))
    starts = [start(number, len(features), size, sets) for number in range(sets)]
    return np.array([entanglement(features, (places >= first) & (places < first + size)) for first in starts]), places


def start(number: int, examples: int, size: int, sets: int) -> int:
    """Return the first place of set ``number``, from 0."""
    return round(number * (examples - size) / max(1, sets - 1))


def distances_to_center(features: np.ndarray) -> np.ndarray:
    """Return each example's Euclidean distance to the mean of all features ``[n, D]``, float64 ``[n]``."""
    values = features.astype(np.float64)
    return np.sqrt(((values - values.mean(axis=0)) ** 2).sum(axis=1))
