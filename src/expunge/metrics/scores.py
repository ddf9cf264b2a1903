"""One number for each example, from logits and labels.

Every function computes in float64 whatever the logits' type: on saturated rows a softmax in float32 moves some scores by tens.
Rows are taken in chunks, so that the memory stays small beside the logits.
"""

from collections.abc import Callable

import numpy as np

_CHUNK = 1 << 20
LOG_FLOOR = np.log(1e-30)
"""Logarithms of probabilities are clipped here in the modified entropy, as the published code does."""


def by_rows(score: Callable[..., np.ndarray], logits: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Return ``score(logits in float64, *columns)`` computed in chunks of rows, ``[n]``."""
    rows = max(1, _CHUNK // logits.shape[1])
    if len(logits) <= rows:
        return score(logits.astype(np.float64), *columns)
    parts = [slice(start, start + rows) for start in range(0, len(logits), rows)]
    return np.concatenate([score(logits[part].astype(np.float64), *(column[part] for column in columns)) for part in parts])


def _log_sum_exp(z: np.ndarray) -> np.ndarray:
    top = z.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(z - top).sum(axis=1, keepdims=True)))[:, 0]


def _without(z: np.ndarray, column: np.ndarray) -> np.ndarray:
    rest = z.copy()
    rest[np.arange(len(z)), column] = -np.inf
    return rest


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log probabilities, natural logarithm, float64 ``[n, C]``."""
    z = np.asarray(logits, dtype=np.float64)
    return z - _log_sum_exp(z)[:, None]


def prediction(logits: np.ndarray) -> np.ndarray:
    """Return the class with the largest logit, int64 ``[n]``; the first one of a tie."""
    return np.argmax(logits, axis=1)


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ``z_y - logsumexp of the other logits`` = log(p_y / (1 - p_y)), float64 ``[n]``. Positive implies correct."""

    def score(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return z[np.arange(len(z)), y] - _log_sum_exp(_without(z, y))

    return by_rows(score, logits, labels)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each example's loss -log p_y in nats, float64 ``[n]``."""
    return np.logaddexp(0.0, -margin(logits, labels))


def probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability of the true class, float64 ``[n]``."""
    return np.exp(-cross_entropy(logits, labels))


def entropy(logits: np.ndarray) -> np.ndarray:
    """Return the entropy of the predicted distribution in nats, float64 ``[n]``, from 0 to log C."""

    def score(z: np.ndarray) -> np.ndarray:
        log_p = log_softmax(z)
        return -(np.exp(log_p) * log_p).sum(axis=1)

    return by_rows(score, logits)


def _log_complement(z: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Return log(1 - p); the largest class's from the sum of the others, since 1 - p cancels there."""
    top = z.argmax(axis=1)
    complement = np.log1p(-np.exp(_without(log_p, top)))
    complement[np.arange(len(z)), top] = _log_sum_exp(_without(log_p, top))
    return complement


def modified_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), float64 ``[n]``, in nats.

    Near 0 for a confident right answer, up to 138.16 for a confident wrong one (logarithms are clipped at log 1e-30).

    Source: Song & Mittal, USENIX Security 2021, equation 7.
    """

    def score(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        rows, log_p = np.arange(len(z)), log_softmax(z)
        log_not = np.maximum(_log_complement(z, log_p), LOG_FLOOR)
        others = np.exp(log_p) * log_not
        own = np.exp(log_not[rows, y]) * np.maximum(log_p[rows, y], LOG_FLOOR)
        return -own - (others.sum(axis=1) - others[rows, y])

    return by_rows(score, logits, labels)


def modified_entropy_published(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what the published unlearning code calls modified entropy, float64 ``[n]``. Wrong; for comparison only.

    That code replaces p by 1 - p in the column of every class that occurs anywhere in ``labels`` (instead of each row's own
    class) and takes log p for log(1 - p). Its values depend on which labels the set holds: under a class request the forget
    set and the other sets are measured with different formulas.

    Source: Unlearn-Sparse and SalUn, evaluation/SVC_MIA.py, in an equal form that is linear in n.
    """
    occurs = np.isin(np.arange(logits.shape[1]), labels)

    def score(z: np.ndarray) -> np.ndarray:
        log_p = log_softmax(z)
        p = np.exp(log_p)
        return -(np.where(occurs, 1 - p, p) * np.maximum(log_p, LOG_FLOOR)).sum(axis=1)

    return by_rows(score, logits)
