"""Membership by the size of the logits."""

from typing import ClassVar

import numpy as np

from expunge.metrics import roc
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class EnergyAuc(Metric):
    """AUC of the logits' log-sum-exp for the forget set against unseen data: an attack that needs no label.

    It sees what softmax scores cannot: a shift of all logits. The good value is the retrained model's.
    """

    label: ClassVar[str] = "energy AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020"
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error."""
        sums = [np.logaddexp.reduce(view.of(part)[0].astype(np.float64), axis=1) for part in self.parts]
        value, error = roc.area(*sums)
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))
