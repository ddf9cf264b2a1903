"""Membership by the mean training loss."""

from typing import ClassVar

from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class YeomMembership(Metric):
    """Share of the forget set whose loss is above the mean loss of the retain set, in percent: called non-member.

    The good value is the retrained model's. The mean is moved by few large losses, so that the threshold suits no model in particular.
    """

    label: ClassVar[str] = "MIA Yeom"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Yeom et al., CSF 2018 (bounded-loss adversary)"
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the threshold held fixed."""
        return share(view.loss("forget") > view.loss("retain").mean())
