"""A true positive rate as an estimate."""

import numpy as np

from expunge.metrics import roc
from expunge.metrics.metric import Estimate
from expunge.statistics import NotEnoughEvidence


def rate_at(forget: np.ndarray, unseen: np.ndarray, at: float) -> Estimate:
    """Return the percentage of forget scores above the smallest threshold that at most a share ``at`` of unseen scores exceed.

    Raises:
        NotEnoughEvidence: fewer than 10 unseen scores may lie above the threshold.
    """
    found = roc.tpr_at_fpr(forget, unseen, at)
    if found.value is None:
        raise NotEnoughEvidence(found.reason)
    error = None if found.standard_error is None else 100 * found.standard_error
    return Estimate(100 * found.value, error, min(len(forget), len(unseen)))
