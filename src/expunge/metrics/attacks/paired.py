"""The areas of two models on the same examples, and how a function of both varies with the examples."""

from typing import NamedTuple

import numpy as np

from expunge.metrics import roc


class Influence(NamedTuple):
    """An AUC and what each example contributes to it.

    Attributes:
        value: the AUC.
        positive: for each positive the share of negatives below it, ties half, ``[n1]``.
        negative: for each negative the share of positives above it, ``[n0]``.
    """

    value: float
    positive: np.ndarray
    negative: np.ndarray


def influence(positive: np.ndarray, negative: np.ndarray) -> Influence:
    """Return the AUC with its placement values, whose means are the AUC.

    Source: DeLong et al., Biometrics 1988.
    """
    n1, n0 = len(positive), len(negative)
    ranks = roc.midranks(np.concatenate([positive, negative]))
    above = (ranks[:n1] - roc.midranks(positive)) / n0
    return Influence(float(above.mean()), above, 1 - (ranks[n1:] - roc.midranks(negative)) / n1)


def ratio_error(model: Influence, reference: Influence) -> float | None:
    """Return the standard error of AUC / reference AUC over the same examples, by the delta method; None where the formula gives 0."""
    if min(len(model.positive), len(model.negative)) < 2 or reference.value <= 0:
        return None
    ratio = model.value / reference.value
    parts = [(getattr(model, side) - ratio * getattr(reference, side)) / reference.value for side in ("positive", "negative")]
    error = float(np.sqrt(sum(np.var(part, ddof=1) / len(part) for part in parts)))
    return error if error > 0 else None
