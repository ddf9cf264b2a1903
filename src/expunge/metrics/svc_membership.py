"""The MIA column of the published tables."""

from functools import partial
from typing import ClassVar

import numpy as np

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.metrics import membership
from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class SvcMembership(Metric):
    """Share of the forget set that the published SVC attack on confidence calls non-member, in percent.

    Its good value is the retrained model's; neither 0 nor 50 nor 100.
    """

    label: ClassVar[str] = "MIA"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, forget efficacy)"
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "the membership attack calls more of the forget set unseen than for a retrained model (over-unlearned)"
    below: ClassVar[str] = "the membership attack still calls too much of the forget set training data"
    deviations: ClassVar[tuple[str, ...]] = (
        "members are a drawn sample of the retain set; the published code takes the first ones",
        "fitted on bins with weights; agrees with the full fit on about 999 of 1000 examples",
    )

    bins: PositiveInt = hyper(1024, "bins of the confidence on which the attack is fitted")
    draw_seed: NonNegativeInt = hyper(0, "seed of the member sample; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the attack held fixed."""
        return share(view.once(("svc_membership", self.bins, self.draw_seed), lambda: self._unseen(view)))

    def _unseen(self, view: View) -> np.ndarray:
        retain, test, forget = (view.probability(part) for part in ("retain", "test", "forget"))
        attack = partial(membership.svc_membership_binned, bins=self.bins)
        return membership.forget_efficacy(attack, retain, test, forget, self.draw_seed)
