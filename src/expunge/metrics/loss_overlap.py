"""Loss histograms of forgotten and unseen data."""

from typing import ClassVar

from expunge.config import PositiveInt, hyper
from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View


class LossOverlap(Metric):
    """Area that the loss histograms of the forget set and of unseen data share, from 0 to 1."""

    label: ClassVar[str] = "loss overlap"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    above: ClassVar[str] = "losses on the forget set resemble those on unseen data more than a retrained model's do"
    below: ClassVar[str] = "losses on the forget set and on unseen data differ more than for a retrained model"

    bins: PositiveInt = hyper(20, "bins over the joint range; the sources use 20 and 50")

    def measure(self, view: View) -> Estimate:
        """Return the shared area; it has no standard error formula."""
        overlap = closeness.histogram_overlap(view.loss("forget"), view.loss("unseen"), self.bins)
        return Estimate(overlap, None, min(view.size("forget"), view.size("unseen")))
