"""The published SVC attack on entropy."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks.svc import SvcOnScores
from expunge.metrics.view import View


class SvcMembershipEntropy(SvcOnScores):
    """Share of the forget set that the published SVC attack on entropy calls non-member, in percent.

    A column of the sources' longer tables; read it as the attack on confidence, against the retrained model's value. Source 001 prints
    the share called member, 100 minus this. The attack on correctness is left out: it equals the unlearning accuracy.
    """

    label: ClassVar[str] = "MIA entropy"
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, entropy)"

    def score(self, view: View, part: str) -> np.ndarray:
        """Return the entropy of each example, in nats."""
        return view.entropy(part)
