"""What attacks that compare with a base pool share, as an area and as a rate at few false alarms."""

from typing import ClassVar

import numpy as np

from expunge.metrics import roc
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
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


class ReferenceAttack(Metric):
    """AUC of an attack that compares with a base pool, for the forget set against unseen data. Metrics give the attack's scores."""

    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def attacked(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return the attack's scores of forget and of unseen examples."""
        raise NotImplementedError

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error, the base pool held fixed."""
        value, error = roc.area(*self.attacked(view))
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))


class ExposedShare(ReferenceAttack):
    """Share of the forget set that an attack finds at a low false positive rate. Metrics give ``at`` and the attack's scores.

    An average over examples can hide a few that are exposed; this is about those. A retrained model's value is near ``at``. At the
    threshold of the empirical rate, without interpolation; it is not printed from fewer than 10 unseen examples above it. It says
    little about a small forget set: the standard error says how little.
    """

    unit: ClassVar[str] = "%"
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    at: ClassVar[float] = 0.01

    def measure(self, view: View) -> Estimate:
        """Return the rate with its standard error, the threshold's noise included and the base pool held fixed.

        Raises:
            NotEnoughEvidence: too few unseen examples.
        """
        return rate_at(*self.attacked(view), self.at)
