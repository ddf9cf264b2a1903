"""The published SVC attack on modified entropy."""

from functools import partial
from typing import ClassVar

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.metrics import membership
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class SvcMembershipModifiedEntropy(Metric):
    """Share of the forget set that the published SVC attack on modified entropy calls non-member, in percent.

    A column of the sources' longer tables; read it as the attack on confidence, against the retrained model's value. Source 001 prints
    the share called member, 100 minus this. The attack on correctness is left out: it equals the unlearning accuracy.
    """

    label: ClassVar[str] = "MIA m-entropy"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, modified entropy)"
    deviations: ClassVar[tuple[str, ...]] = (
        "members are a drawn sample of the retain set; the published code takes the first ones",
        "fitted on bins with weights",
        "the modified entropy of Song & Mittal; both sources' code computes something else under that name",
    )
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    bins: PositiveInt = hyper(1024, "bins of the feature on which the attack is fitted")
    draw_seed: NonNegativeInt = hyper(0, "seed of the member sample; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the attack held fixed."""
        attack = partial(membership.svc_membership_binned, bins=self.bins)
        retain, test, forget = (view.modified_entropy(part) for part in ("retain", "test", "forget"))
        return share(membership.forget_efficacy(attack, retain, test, forget, self.draw_seed))
