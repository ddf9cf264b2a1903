"""Attackers of several kinds, each judged on examples that it was not fitted on."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from expunge.attacks import roc
from expunge.errors import BadInput, nearest
from expunge.statistics import NotEnoughEvidence


class Judged(NamedTuple):
    """What an attacker reached.

    Attributes:
        auc: mean over folds of the area under the ROC curve on held-out examples; above 0.5 where forgotten examples score higher.
        folds: of each fold, float64 ``[folds]``.
        scores: held-out scores of the forgotten examples, ``[n]``, and of the unseen ones, ``[m]``; comparable within a fold only.
    """

    auc: float
    folds: np.ndarray
    scores: tuple[np.ndarray, np.ndarray]


def _threshold(seed: int) -> Any:
    """A single threshold: nothing is fitted but its direction, from the first column."""
    return None


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=200)


def _support_vectors(seed: int) -> Any:
    from sklearn.svm import SVC

    return SVC(C=1.0, gamma="scale")


def _neighbors(seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(25)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, min_samples_leaf=5, random_state=seed, n_jobs=1)


def _net(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), alpha=0.1, max_iter=60, random_state=seed)


ATTACKERS: dict[str, Callable[[int], Any]] = {
    "threshold": _threshold,
    "logistic_regression": _logistic,
    "support_vectors": _support_vectors,
    "nearest_neighbors": _neighbors,
    "random_forest": _forest,
    "neural_net": _net,
}
"""Name -> an unfitted classifier of scikit-learn for a seed; None for the threshold."""


def judge(attacker: str, forget: np.ndarray, unseen: np.ndarray, folds: int = 5, seed: int = 0) -> Judged:
    """Return how well an attacker tells held-out forgotten from held-out unseen examples.

    Both groups are cut to the same size, at random, and every fold holds equally many of both. Features are standardised by the moments of
    the fold's training examples alone.

    Args:
        attacker: one of ``ATTACKERS``.
        forget: what it sees of forgotten examples, ``[n, d]``.
        unseen: of unseen ones, ``[m, d]``.
        folds: number of folds.
        seed: of the cut, the folds and the attacker.

    Raises:
        BadInput: there is no such attacker.
        NotEnoughEvidence: fewer than 10 examples of a group for each fold but one.
    """
    if attacker not in ATTACKERS:
        raise BadInput("lab.attackers", f"no attacker is called {attacker!r}.", nearest(attacker, ATTACKERS))
    size = min(len(forget), len(unseen))
    if size < 2 * folds:
        raise NotEnoughEvidence(f"{size} examples of a group are too few for {folds} folds")
    draws = np.random.default_rng(seed)
    groups = [group[draws.permutation(len(group))[:size]] for group in (forget, unseen)]
    place = np.arange(size) % folds
    areas, held = np.empty(folds), [np.empty(size), np.empty(size)]
    for fold in range(folds):
        fit = [group[place != fold] for group in groups]
        score = _fitted(ATTACKERS[attacker](seed), *fit)
        for side, group in enumerate(groups):
            held[side][place == fold] = score(group[place == fold])
        areas[fold] = roc.auc(held[0][place == fold], held[1][place == fold])
    return Judged(float(areas.mean()), areas, (held[0], held[1]))


def _fitted(classifier: Any, forget: np.ndarray, unseen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the score of a classifier that was fitted on both groups; higher means forgotten."""
    if classifier is None:
        sign = 1.0 if roc.auc(forget[:, 0], unseen[:, 0]) >= 0.5 else -1.0
        return lambda x: sign * x[:, 0]
    from sklearn.exceptions import ConvergenceWarning

    x, y = np.concatenate([forget, unseen]), np.repeat([1, 0], [len(forget), len(unseen)])
    center, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit((x - center) / scale, y)

    def score(rows: np.ndarray) -> np.ndarray:
        asked = (rows - center) / scale
        if hasattr(classifier, "decision_function"):
            return classifier.decision_function(asked)
        return classifier.predict_proba(asked)[:, 1]

    return score
