"""A logistic regression that tells two groups apart, judged on examples that it was not fitted on; one processor thread."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from expunge.statistics import NotEnoughEvidence


def balanced_accuracy(first: np.ndarray, second: np.ndarray, splits: int = 10, seed: int = 0) -> np.ndarray:
    """Return the accuracy on each of several random tenths, float64 ``[splits]``, of a regression that is fitted on the other nine.

    Args:
        first: scores of one group, ``[n]``; sorted here, so that their order does not matter.
        second: of the other; a sample of the larger group's size is drawn to equal numbers by the caller.
        splits: number of stratified random splits.
        seed: of the splits.

    Raises:
        NotEnoughEvidence: fewer than 10 of a group.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit

    x = np.concatenate([np.sort(first), np.sort(second)])[:, None]
    y = np.repeat([1, 0], [len(first), len(second)])
    _enough(first, second)
    parts = StratifiedShuffleSplit(n_splits=splits, random_state=seed).split(x, y)
    with _quiet():
        return np.array([LogisticRegression().fit(x[fit], y[fit]).score(x[judge], y[judge]) for fit, judge in parts])


def held_out_scores(first: np.ndarray, second: np.ndarray, folds: int = 5, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each fold, the scores of both groups' examples in it by a regression that is fitted on the other folds.

    Example k of both groups falls into the same fold when they have equally many: the same example asked of two models never stands
    on both sides.

    Args:
        first: features of one group, ``[n, d]``, rows in canonical order.
        second: of the other, ``[m, d]``.
        folds: number of folds.
        seed: of the folds.

    Raises:
        NotEnoughEvidence: fewer than 10 of a group.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    _enough(first, second)
    place = [np.random.default_rng(seed).permutation(len(group)) % folds for group in (first, second)]
    for fold in range(folds):
        x = np.concatenate([group[at != fold] for group, at in zip((first, second), place, strict=True)])
        y = np.repeat([1, 0], [int((at != fold).sum()) for at in place])
        with _quiet():
            scaler = StandardScaler().fit(x)
            model = LogisticRegression(class_weight="balanced", max_iter=500).fit(scaler.transform(x), y)
            judged = [
                model.decision_function(scaler.transform(group[at == fold])) for group, at in zip((first, second), place, strict=True)
            ]
        yield judged[0], judged[1]


def _enough(first: np.ndarray, second: np.ndarray) -> None:
    if min(len(first), len(second)) < 10:
        raise NotEnoughEvidence(f"not measurable at n = {min(len(first), len(second))}: a fitted attack needs 10 examples of each group")


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, and no warning where the groups are separated completely and the regression does not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
