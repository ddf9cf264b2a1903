"""Outputs beside accuracy and membership: closeness to a random net, calibration, where a forgotten class goes, over-unlearning."""

from typing import NamedTuple

import numpy as np

from expunge.metrics import accuracy, closeness, scores


def zero_retrain_forgetting(logits: np.ndarray, random_logits: np.ndarray) -> float:
    """Return ``1 - mean JS(p, p_random)`` over the forget set, Jensen-Shannon to base 2, so from 0 to 1.

    1 when the model answers as a randomly initialised one. It measures randomness, not forgetting: a retrained model, which still answers
    sensibly, is well below 1 and is the value to aim at.

    Args:
        logits: of the model on the forget set, ``[n, C]``.
        random_logits: of a randomly initialised model; the same one for all models that are compared.

    Source: Chundawat et al., Bad Teacher, AAAI 2023 (ZRF).
    """
    return float(closeness.similarity(logits, random_logits).mean())


def zero_retrain_forgetting_published(logits: np.ndarray, random_logits: np.ndarray) -> float:
    """Return what the published code calls ZRF. Wrong; for comparison only.

    It averages ``KL(m || p) / C`` in place of ``KL(p || m)``, in nats, where m is the mean distribution: unbounded, and about C times too
    close to 1, so that tables of 10 and of 100 classes cannot be compared.

    Source: bad-teaching-unlearning, metrics.py (F.kl_div with its default reduction and swapped arguments).
    """

    def score(z: np.ndarray, other: np.ndarray) -> np.ndarray:
        log_p, log_q = scores.log_softmax(z), scores.log_softmax(other)
        log_middle = np.logaddexp(log_p, log_q) - np.log(2)
        return (np.exp(log_middle) * (2 * log_middle - log_p - log_q)).sum(axis=1) / 2

    return float(1 - scores.by_rows(score, logits, random_logits).mean() / logits.shape[1])


class Calibration(NamedTuple):
    """How honest a model's confidence is.

    Attributes:
        expected_error: mean over examples of |confidence - accuracy| of their bin, 0 to 1 (ECE).
        signed_error: mean confidence minus accuracy; above 0 is overconfident.
        negative_log_likelihood: mean cross entropy in nats.
    """

    expected_error: float
    signed_error: float
    negative_log_likelihood: float


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Return the calibration of the top class's probability, in bins of equal width (low, high].

    The expected error is biased up by few examples a bin; compare at equal n with a retrained model's.

    Source: Guo et al., ICML 2017 (ECE, 15 bins).
    """
    confidence = np.exp(scores.log_softmax(logits).max(axis=1))
    right = scores.prediction(logits) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return Calibration(
        float(np.abs(gaps).sum() / len(labels)),
        float(gaps.sum() / len(labels)),
        float(scores.cross_entropy(logits, labels).mean()),
    )


class Redistribution(NamedTuple):
    """Where examples of a forgotten class go.

    Attributes:
        shares: share of the examples predicted as each class, float64 ``[C]``.
        reference_shares: the same of the retrained model.
        prediction_distance: total variation of the two, 0 to 1.
        probability_distance: total variation of the mean predicted distributions, 0 to 1.
        nearest_class: the class that the retrained model names most often.
        nearest_gap: share given to it minus the retrained model's, signed.
    """

    shares: np.ndarray
    reference_shares: np.ndarray
    prediction_distance: float
    probability_distance: float
    nearest_class: int
    nearest_gap: float


def redistribution(logits: np.ndarray, reference: np.ndarray) -> Redistribution:
    """Return where a model sends examples of one forgotten class, beside where a retrained model sends them.

    A model that only suppresses a logit sends them to the original's second choice, which need not be where retraining sends them.

    Args:
        logits: of the model on examples of the class, ``[n, C]``, best on unseen ones.
        reference: of the retrained model on the same examples.
    """
    classes = logits.shape[1]
    ours, theirs = (np.bincount(scores.prediction(part), minlength=classes) / len(part) for part in (logits, reference))
    means = [np.exp(scores.log_softmax(part)).mean(axis=0) for part in (logits, reference)]
    nearest = int(theirs.argmax())
    return Redistribution(
        ours,
        theirs,
        float(np.abs(ours - theirs).sum() / 2),
        float(np.abs(means[0] - means[1]).sum() / 2),
        nearest,
        float(ours[nearest] - theirs[nearest]),
    )


def confusion_distance(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> float:
    """Return the Frobenius distance of two models' confusion matrices with rows of shares; classes without examples are left out.

    From 0 to ``sqrt(2 C)``.

    Source: source 003's CM score, without its three mistakes (a matrix carried over between splits, training mode, + 1 in the rows' sums).
    """
    tables = [accuracy.confusion(part, labels).astype(np.float64) for part in (logits, reference)]
    held = tables[0].sum(axis=1) > 0
    rows = [table[held] / table[held].sum(axis=1, keepdims=True) for table in tables]
    return float(np.linalg.norm(rows[0] - rows[1]))


class Signed(NamedTuple):
    """A signed difference to a retrained model; above 0 under-unlearned, below 0 over-unlearned.

    Attributes:
        margin: mean of (margin - retrained margin), in logits; margins are clipped at 50, where probabilities are long saturated.
        accuracy: accuracy minus the retrained model's.
        over: share of examples whose margin is lower than the retrained model's.
    """

    margin: float
    accuracy: float
    over: float


def signed_gap(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Signed:
    """Return how far a model knows examples more (above 0) or less (below 0) than a retrained model.

    Against one retrained model the sign of a single example is mostly noise: give the mean logits of several, or read the means only.

    Args:
        logits: of the model, ``[n, C]``.
        reference: of the retrained model.
        labels: true classes, int64 ``[n]``.
    """
    ours, theirs = (np.clip(scores.margin(part, labels), -50, 50) for part in (logits, reference))
    right = accuracy.accuracy(logits, labels) - accuracy.accuracy(reference, labels)
    return Signed(float((ours - theirs).mean()), right, float((ours < theirs).mean()))
