"""The published SVC attack on the whole predicted distribution."""

from typing import ClassVar

import numpy as np

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.metrics import membership, scores
from expunge.metrics.findings import CALLED_MEMBER, CALLED_UNSEEN
from expunge.metrics.metric import Estimate, Metric, Target, Tier, share
from expunge.metrics.view import View


class SvcMembershipProbabilities(Metric):
    """Share of the forget set that the published SVC attack on all class probabilities calls non-member, in percent.

    A column of the sources' longer tables; read it as the attack on confidence, against the retrained model's value.
    """

    label: ClassVar[str] = "MIA prob"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, prob)"
    deviations: ClassVar[tuple[str, ...]] = ("fitted on drawn samples of limited size: the full fit takes minutes to hours",)
    above: ClassVar[str] = CALLED_UNSEEN
    below: ClassVar[str] = CALLED_MEMBER

    fit_size: PositiveInt = hyper(1000, "most examples of each group on which the attack is fitted")
    draw_seed: NonNegativeInt = hyper(0, "seed of the samples; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the percentage called non-member; the error is that of the forget sample, with the attack held fixed."""
        from threadpoolctl import threadpool_limits

        retain, test, forget = (np.exp(scores.log_softmax(view.of(part)[0])) for part in ("retain", "test", "forget"))
        retain, test = (membership.draw(part, self.fit_size, self.draw_seed) for part in (retain, test))
        with threadpool_limits(1):
            return share(membership.forget_efficacy(membership.svc_membership, retain, test, forget, self.draw_seed))
