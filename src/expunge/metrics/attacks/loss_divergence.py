"""Divergence of the loss histograms of forgotten and unseen data."""

from typing import ClassVar

from expunge.config import PositiveInt, hyper
from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LossDivergence(Metric):
    """Kullback-Leibler divergence of the forget set's loss histogram from that of unseen data, in nats.

    Never 0 for two samples, and larger the fewer they are: compare with the retrained models' value only. Blind to the direction.
    """

    label: ClassVar[str] = "loss KL"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 002 (KL of 50-bin loss histograms)"
    deviations: ClassVar[tuple[str, ...]] = ("half a count is added to every bin, so that an empty one gives no infinity",)
    above: ClassVar[str] = "losses on the forget set and on unseen data differ more than for a retrained model"
    below: ClassVar[str] = "losses on the forget set resemble those on unseen data more than a retrained model's do"

    bins: PositiveInt = hyper(50, "bins of equal width over the joint range")

    def measure(self, view: View) -> Estimate:
        """Return the divergence; it has no standard error formula."""
        value = closeness.histogram_divergence(view.loss("forget"), view.loss("unseen"), self.bins)
        return Estimate(value, None, min(view.size("forget"), view.size("unseen")))
