"""What a learned attacker sees of each answer, and how well it does on folds that it was not fitted on."""

import numpy as np

from expunge.metrics import roc, scores
from expunge.metrics.attacks import learned
from expunge.metrics.metric import Estimate
from expunge.metrics.view import View

TOP = 10
"""So many of the largest log probabilities are seen."""


def answers(view: View, part: str) -> np.ndarray:
    """Return each answer's loss, entropy, own margin and sorted largest log probabilities, float64 ``[n, d]``."""

    def compute() -> np.ndarray:
        log_p = np.sort(scores.log_softmax(view.of(part)[0]), axis=1)[:, ::-1][:, :TOP]
        return np.column_stack([view.loss(part), view.entropy(part), np.clip(view.margin(part), -50, 50), log_p])

    return view.once(("answers", part), compute)


def in_order(rows: np.ndarray, key: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Return at most ``most`` rows drawn in an order that depends on the key's rows and not on where they stand."""
    order = np.lexsort(key.T)
    return rows[order[np.random.default_rng(seed).permutation(len(order))[:most]]]


def learned_area(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Return the mean AUC over folds of a logistic regression that is fitted on the others; its error as if folds were independent."""
    areas = [roc.area(*scored) for scored in learned.held_out_scores(first, second)]
    errors = [area.standard_error for area in areas if area.standard_error is not None]
    error = float(np.sqrt(np.square(errors).sum()) / len(areas)) if len(errors) == len(areas) else None
    return Estimate(float(np.mean([area.value for area in areas])), error, min(len(first), len(second)))
