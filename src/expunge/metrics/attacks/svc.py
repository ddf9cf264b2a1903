"""What the published SVC attacks on one score share."""

from functools import partial
from typing import ClassVar

import numpy as np

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.metrics import membership
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class SvcOnScores(Metric):
    """Share of the forget set that the published SVC attack on one score calls non-member, in percent. Metrics give the score."""

    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    deviations: ClassVar[tuple[str, ...]] = (
        "members are a drawn sample of the retain set; the published code takes the first ones",
        "fitted on bins with weights",
    )
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    bins: PositiveInt = hyper(1024, "bins of the feature on which the attack is fitted")
    draw_seed: NonNegativeInt = hyper(0, "seed of the member sample; the same for all models that are compared")

    def score(self, view: View, part: str) -> np.ndarray:
        """Return what the attack reads of each example."""
        raise NotImplementedError

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the attack held fixed."""
        return share(view.once((self.name, self.bins, self.draw_seed), lambda: self._unseen(view)))

    def _unseen(self, view: View) -> np.ndarray:
        attack = partial(membership.svc_membership_binned, bins=self.bins)
        retain, test, forget = (self.score(view, part) for part in ("retain", "test", "forget"))
        return membership.forget_efficacy(attack, retain, test, forget, self.draw_seed)
