"""Frechet distance of two sets of features, as if both were normal."""

import numpy as np

from expunge.statistics import NotEnoughEvidence


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Return ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)`` of features ``[n1, D]`` and ``[n2, D]``.

    In the squared unit of the features. Features of models with different initial weights are not aligned, so it compares models that
    start from the same weights; for others use CKA. The estimate is biased up by about 1 / n: compare sets of equal size, and read
    the value beside that of two retrained models. Covariances are divided by n - 1.

    Raises:
        NotEnoughEvidence: fewer than 2 examples in a set.
        ValueError: different numbers of columns.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features of equal width, got {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) < 2:
        raise NotEnoughEvidence(f"a Frechet distance needs 2 examples on each side, there are {len(x)} and {len(y)}")
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if max(len(a), len(b)) <= x.shape[1]:
        return _of_few(a, b)
    return frechet_of_moments(a.mean(axis=0), _covariance(a), b.mean(axis=0), _covariance(b))


def frechet_of_moments(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray) -> float:
    """Return the Frechet distance of two normal laws with means ``[D]`` and covariances ``[D, D]``."""
    root = _root(covariance)
    middle = np.linalg.eigvalsh(root @ other_covariance @ root)
    cross = np.sqrt(np.clip(middle, 0, None)).sum()
    value = np.square(mean - other_mean).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * cross
    return float(max(0.0, value))


def _of_few(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance of fewer examples than columns: the cross term is the sum of the singular values of A B', n1 by n2."""
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    first, second = ((part - part.mean(axis=0)) / np.sqrt(len(part) - 1) for part in (a, b))
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(max(0.0, shift + np.square(first).sum() + np.square(second).sum() - 2 * cross))


def _covariance(x: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(x, rowvar=False))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
