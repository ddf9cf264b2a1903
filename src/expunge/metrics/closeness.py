"""How far two models' outputs, or two groups' losses, lie apart."""

from typing import Literal

import numpy as np

from expunge.metrics import scores


def jensen_shannon(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return each example's Jensen-Shannon divergence in nats, float64 ``[n]``, from 0 to log 2. Symmetric."""

    def score(z: np.ndarray, other: np.ndarray) -> np.ndarray:
        log_p, log_q = scores.log_softmax(z), scores.log_softmax(other)
        log_middle = np.logaddexp(log_p, log_q) - np.log(2)
        terms = np.exp(log_p) * (log_p - log_middle) + np.exp(log_q) * (log_q - log_middle)
        return np.clip(terms.sum(axis=1) / 2, 0, np.log(2))

    return scores.by_rows(score, logits, reference)


def similarity(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 minus each example's Jensen-Shannon divergence to base 2, float64 ``[n]``, from 0 to 1 for equal answers."""
    return 1 - jensen_shannon(logits, reference) / np.log(2)


def kullback_leibler(logits: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return each example's KL(softmax(logits) || softmax(other)) in nats, float64 ``[n]``, at least 0, without an upper bound."""

    def score(z: np.ndarray, second: np.ndarray) -> np.ndarray:
        log_p, log_q = scores.log_softmax(z), scores.log_softmax(second)
        return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)

    return scores.by_rows(score, logits, other)


def activation_distance(logits: np.ndarray, reference: np.ndarray, norm: Literal["l2", "l1"] = "l2") -> np.ndarray:
    """Return each example's distance of the predicted probabilities, float64 ``[n]``.

    Args:
        logits: of one model, ``[n, C]``.
        reference: of the other model, ``[n, C]``.
        norm: ``l2`` (at most sqrt 2; Golatkar et al., Bad Teacher) or ``l1`` (at most 2; Goel et al.).
    """

    def score(z: np.ndarray, other: np.ndarray) -> np.ndarray:
        difference = np.exp(scores.log_softmax(z)) - np.exp(scores.log_softmax(other))
        return np.sqrt((difference**2).sum(axis=1)) if norm == "l2" else np.abs(difference).sum(axis=1)

    return scores.by_rows(score, logits, reference)


def agreement(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return whether two models predict the same class, bool ``[n]``. Its mean is the fidelity."""
    return scores.prediction(logits) == scores.prediction(reference)


def churn(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the fraction of examples on which two models predict different classes."""
    return float(1 - np.mean(agreement(logits, reference)))


def fidelity(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the fraction of examples on which two models predict the same class. Not a Frechet distance."""
    return float(np.mean(agreement(logits, reference)))


def relative_unlearning_accuracy(correct: np.ndarray, reference: np.ndarray) -> float:
    """Return accuracy minus the retrained model's accuracy, a signed fraction; above 0 means forgotten too little.

    Args:
        correct: whether the model is right on each forget example, bool ``[n]``.
        reference: the same of the retrained model.
    """
    return float(np.mean(correct) - np.mean(reference))


def histogram_overlap(first: np.ndarray, second: np.ndarray, bins: int = 20) -> float:
    """Return the area that two normalised histograms share, from 0 to 1; equal bins over the joint range, the last one closed."""
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    if low == high:
        return 1.0
    one, _ = np.histogram(first, bins=bins, range=(low, high))
    two, _ = np.histogram(second, bins=bins, range=(low, high))
    return float(np.minimum(one / len(first), two / len(second)).sum())


def histogram_divergence(first: np.ndarray, second: np.ndarray, bins: int = 50) -> float:
    """Return KL(first || second) of two histograms over the joint range, half a count added to every bin, in nats."""
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    if low == high:
        return 0.0
    counts = [np.histogram(values, bins=bins, range=(low, high))[0] + 0.5 for values in (first, second)]
    one, two = (count / count.sum() for count in counts)
    return float((one * np.log(one / two)).sum())
