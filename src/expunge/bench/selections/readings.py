"""Numbers in percentage points that rules are made of; each reads views of a model and nothing else."""

import numpy as np

from expunge.attacks.roc import auc
from expunge.errors import BadInput
from expunge.metrics.view import View

HELD_OUT = ("validation", "validation_forgotten")
"""Parts of the validation data; the second holds the classes that are forgotten as a whole."""


def accuracy(view: View, part: str) -> float:
    """Return the accuracy on a part, in percent."""
    return 100 * float(view.correct(part).mean())


def matched_accuracy(view: View) -> float:
    """Return the accuracy on validation data whose classes are as frequent as in the forget set, in percent.

    Raises:
        BadInput: the validation data lack a class of the forget set.
    """
    wanted = np.bincount(view.labels["forget"])
    labels, right = _held_out(view, lambda part: view.correct(part))
    present = np.bincount(labels, minlength=len(wanted))[: len(wanted)]
    if missing := np.flatnonzero((wanted > 0) & (present == 0)).tolist():
        raise BadInput("validation", f"no example of class {missing[0]}, which the forget set has.", "Give more validation data.")
    by_class = np.bincount(labels, weights=right, minlength=len(wanted))[: len(wanted)] / np.maximum(present, 1)
    return 100 * float((wanted * by_class).sum() / wanted.sum())


def membership(view: View) -> float:
    """Return how well the loss tells the forget set from validation data of its classes, signed, in percent: 200 (AUC - 1/2).

    Positive where the forget set has the smaller losses, as trained examples have, and negative where it stands out by larger ones.
    """
    labels, loss = _held_out(view, lambda part: view.loss(part))
    alike = np.isin(labels, np.unique(view.labels["forget"]))
    if not alike.any():
        raise BadInput("validation", "no example is of a class that the forget set has.", "Give more validation data.")
    return 200 * (auc(-view.loss("forget"), -loss[alike]) - 0.5)


def _held_out(view: View, read) -> tuple[np.ndarray, np.ndarray]:
    parts = [part for part in HELD_OUT if view.size(part)]
    if not parts:
        raise BadInput(
            "validation", "there is no validation data, and tuning may see no other unseen data.", "Set data.validation_fraction."
        )
    return np.concatenate([view.labels[part] for part in parts]), np.concatenate([read(part) for part in parts])
