"""Membership by the median loss."""

from typing import ClassVar

from expunge.metrics import membership
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class MedianLossMembership(Metric):
    """Share of the forget set whose loss is above the median of retain and test losses, each half of the weight, in percent.

    Source 002 calls an example a non-member there. The good value is the retrained model's.
    """

    label: ClassVar[str] = "MIA median"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 002 (median-loss threshold MIA)"
    deviations: ClassVar[tuple[str, ...]] = (
        "our reading: the source does not say of which losses, nor how groups of unlike size are weighed",
    )
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the threshold held fixed."""
        return share(view.loss("forget") > membership.balanced_median(view.loss("retain"), view.loss("test")))
