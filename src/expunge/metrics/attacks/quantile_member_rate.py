"""How much of the forget set the regression attack calls a member at a guaranteed false positive rate."""

from typing import ClassVar

import numpy as np

from expunge.attacks import quantile
from expunge.attacks.quantile import Regression
from expunge.config import Fraction, hyper
from expunge.metrics.attacks import regression as attack
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class QuantileMemberRate(Metric):
    """Share of the forget set that the regression attack calls member at a false positive rate of at most 5 %.

    The threshold is conformal: unseen examples exceed it in at most that share, whatever the regression is worth. A retrained
    model's value is near 5 % when unseen data match the forget set. A value no higher than that does not show that all is forgotten.
    """

    label: ClassVar[str] = "QMIA members"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Bertran et al., NeurIPS 2023; threshold by split conformal prediction"
    deviations: ClassVar[tuple[str, ...]] = (
        "as for quantile_attack",
        "the mean of two folds, each calibrated on the half it was not fitted on",
    )
    above: ClassVar[str] = CALLED_MEMBER
    below: ClassVar[str] = CALLED_UNSEEN

    at: Fraction = hyper(0.05, "false positive rate")
    regression: Regression = hyper("linear", "as for quantile_attack")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called member, mean of both folds; the error is that of the forget sample, with thresholds held fixed.

        Raises:
            NotEnoughEvidence: too few unseen examples for the rate.
        """
        called = np.mean(
            [forget > quantile.conformal_threshold(held_out, self.at) for forget, held_out in attack.folds(view, self.regression)], axis=0
        )
        n = len(called)
        error = float(called.std(ddof=1) / np.sqrt(n)) if n > 1 else None
        return Estimate(100 * float(called.mean()), None if error is None else 100 * error, n)
