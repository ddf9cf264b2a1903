"""Membership by right and wrong answers."""

from typing import ClassVar

import numpy as np

from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class CorrectnessAdvantage(Metric):
    """Advantage of the attack "right answers are members": forget accuracy minus accuracy on unseen data, in points.

    The 0-1 loss gives exactly this difference of true and false positive rate. The good value is the retrained model's.
    """

    label: ClassVar[str] = "0-1 advantage"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (-100, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Yeom et al., CSF 2018"
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the difference with its binomial standard error."""
        rates = [float(np.mean(view.correct(part))) for part in self.parts]
        variances = [rate * (1 - rate) / view.size(part) for rate, part in zip(rates, self.parts, strict=True)]
        n = min(view.size(part) for part in self.parts)
        return Estimate(100 * (rates[0] - rates[1]), 100 * float(np.sqrt(sum(variances))), n)
