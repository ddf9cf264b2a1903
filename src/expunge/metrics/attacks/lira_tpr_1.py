"""Exposed examples, at one false alarm in a hundred."""

from typing import ClassVar

from expunge.metrics.attacks import ratios
from expunge.metrics.attacks.rates import rate_at
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LiraTpr1(Metric):
    """Share of the forget set that the offline likelihood-ratio attack finds at a false positive rate of 1 %.

    An average over examples can hide a few that are exposed; this is about those. A retrained model's value is near 1 %. At the threshold
    of the empirical rate, without interpolation; it is not printed from fewer than 10 unseen examples above it. Little for a small
    forget set: the standard error says how little.
    """

    label: ClassVar[str] = "LiRA TPR@1 %"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Carlini et al., S&P 2022"
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the rate with its standard error, the threshold's noise included and the base pool held fixed.

        Raises:
            NotEnoughEvidence: too few unseen examples.
        """
        return rate_at(*ratios.standard_scores(view), 0.01)
