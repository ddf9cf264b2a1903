"""Right and wrong answers, as fractions."""

from typing import TYPE_CHECKING

import numpy as np

from expunge.errors import BadInput
from expunge.metrics import scores

if TYPE_CHECKING:
    from expunge.metrics.view import View


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of examples whose largest logit is the true class's."""
    return float(np.mean(scores.prediction(logits) == labels))


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the fraction of examples whose true class is among the k largest logits; of equal ones the lower class comes first.

    Raises:
        BadInput: k is below one.
    """
    return float(np.mean(top_k_hits(logits, labels, k)))


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return whether each true class is among the k largest logits, bool ``[n]``; of equal ones the lower class comes first.

    Raises:
        BadInput: k is below one.
    """
    if k < 1:
        raise BadInput("k", f"expected a positive integer, got {k}.")
    own = logits[np.arange(len(labels)), labels][:, None]
    before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    return before.sum(axis=1) < k


def error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return 1 - accuracy."""
    return 1.0 - accuracy(logits, labels)


def part_accuracies(view: "View") -> dict[str, float]:
    """Return ``{part: accuracy}`` of every part that holds examples."""
    return {part: float(np.mean(view.correct(part))) for part in view.logits if view.size(part)}


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return counts, int64 ``[C, C]``: row = true class, column = predicted class."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + scores.prediction(logits), minlength=classes**2).reshape(classes, classes)


def tug_of_war(accuracies: dict[str, float], reference: dict[str, float]) -> float:
    """Return the product over forget, retain and test of 1 - |difference of accuracies|, from 0 to 1; 1 when all are equal.

    Args:
        accuracies: of the unlearned model, fractions, with at least these three parts.
        reference: of the retrained model.

    Source: Zhao et al., What makes unlearning hard, NeurIPS 2024.
    """
    return float(np.prod([1 - abs(accuracies[part] - reference[part]) for part in ("forget", "retain", "test")]))


def signed_gaps(values: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """Return value - reference of every key, in the values' unit."""
    return {name: values[name] - reference[name] for name in values}


def average_gap(values: dict[str, float], reference: dict[str, float]) -> float:
    """Return the mean absolute gap over the keys, usually UA, RA, TA and MIA in percent.

    The published tables take gaps of values averaged over seeds; the mean of each seed's gap is never smaller.

    Source: Fan et al., SalUn, ICLR 2024 (Avg. Gap).
    """
    return float(np.mean(np.abs(list(signed_gaps(values, reference).values()))))
