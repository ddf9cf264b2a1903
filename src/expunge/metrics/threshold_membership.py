"""Membership by the best threshold."""

from typing import ClassVar

from expunge.config import NonNegativeInt, hyper
from expunge.metrics import membership
from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class ThresholdMembership(Metric):
    """Share of the forget set that the best confidence threshold calls non-member, in percent. Not comparable with the SVC's number."""

    label: ClassVar[str] = "MIA threshold"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "the membership attack calls more of the forget set unseen than for a retrained model (over-unlearned)"
    below: ClassVar[str] = "the membership attack still calls too much of the forget set training data"

    draw_seed: NonNegativeInt = hyper(0, "seed of the member sample; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the threshold held fixed."""
        retain, test, forget = (view.margin(part) for part in ("retain", "test", "forget"))
        return share(membership.forget_efficacy(membership.threshold_membership, retain, test, forget, self.draw_seed))
