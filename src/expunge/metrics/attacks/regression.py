"""The quantile-regression attack's features and folds: non-members only, a half of the unseen examples to fit on, the other to judge."""

import numpy as np

from expunge.attacks import quantile
from expunge.attacks.moments import moments
from expunge.attacks.quantile import Regression
from expunge.metrics.attacks.pairing import checked_reference, halves, targets
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence

MOST_CLASSES = 100
"""Up to so many classes are features of their own."""
FEWEST = 20
"""Unseen examples on which a half is fitted or judged."""


def folds(view: View, regression: Regression) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each half of the unseen examples held out, standard scores of the forget set and of that half.

    The regression of a half's fit sees validation examples and the other half, none of which is a member; scores rise with membership.

    Raises:
        NotEnoughEvidence: too few unseen examples.
    """
    return view.once(("quantile attack", regression), lambda: _folds(view, regression))


def _folds(view: View, regression: Regression) -> list[tuple[np.ndarray, np.ndarray]]:
    from threadpoolctl import threadpool_limits

    found, n = targets(view), view.size("unseen")
    if n < 2 * FEWEST:
        raise NotEnoughEvidence(f"not measurable at n = {n}: the regression and its test need {2 * FEWEST} unseen examples")
    (forget, unseen), extra = _features(view), _validation(view)
    _, margins = found.split(found.margins)
    first = halves(checked_reference(view, "unseen").margins)
    scored = []
    with threadpool_limits(1):
        for fitted_on in (first, ~first):
            x, y = np.concatenate([unseen[fitted_on], extra[0]]), np.concatenate([margins[fitted_on], extra[1]])
            fitted = quantile.fit_normal(*_in_order(x, y), regression)
            held_out = quantile.score(fitted, unseen[~fitted_on], margins[~fitted_on])
            scored.append((quantile.score(fitted, forget, view.margin("forget")), held_out))
    return scored


def _in_order(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples shuffled in a way that does not depend on their order, for the folds inside the fit."""
    order = np.lexsort((*x.T, y))
    order = order[np.random.default_rng(0).permutation(len(order))]
    return x[order], y[order]


def _features(view: View) -> tuple[np.ndarray, np.ndarray]:
    found = targets(view)
    labels = np.concatenate([view.labels["forget"], view.labels["unseen"]])
    difficulty = moments(found.references, found.outside).mean
    return found.split(_columns(difficulty, labels, view.logits["forget"].shape[1]))


def _validation(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return features and margins of the validation examples; of none where there are none."""
    classes = view.logits["forget"].shape[1]
    if not view.size("validation") or "validation" not in view.references:
        return _columns(np.empty(0), np.empty(0, dtype=np.int64), classes), np.empty(0)
    reference = checked_reference(view, "validation")
    difficulty = moments(reference.margins, ~reference.inside).mean
    return _columns(difficulty, view.labels["validation"], classes), view.margin("validation")


def _columns(difficulty: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    if classes > MOST_CLASSES:
        return difficulty[:, None]
    return np.column_stack([difficulty, np.eye(classes)[labels]])
