"""The MIA column of the published tables."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks.svc import SvcOnScores
from expunge.metrics.metric import Tier
from expunge.metrics.view import View


class SvcMembership(SvcOnScores):
    """Share of the forget set that the published SVC attack on confidence calls non-member, in percent.

    Its good value is the retrained model's; neither 0 nor 50 nor 100.
    """

    label: ClassVar[str] = "MIA"
    tier: ClassVar[Tier] = "fast"
    tested: ClassVar[bool] = True
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, forget efficacy)"
    deviations: ClassVar[tuple[str, ...]] = (
        "members are a drawn sample of the retain set; the published code takes the first ones",
        "fitted on bins with weights; agrees with the full fit on about 999 of 1000 examples",
    )

    def score(self, view: View, part: str) -> np.ndarray:
        """Return the true class's probability of each example."""
        return view.probability(part)
