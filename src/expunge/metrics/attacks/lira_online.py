"""Membership by the likelihood ratio of models that were, and were not, trained on examples as hard as this one."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks import ratios
from expunge.metrics.attacks.rates import ReferenceAttack
from expunge.metrics.view import View


class LiraOnline(ReferenceAttack):
    """AUC of the online likelihood-ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    No base model is trained on unseen examples, so their mean under training is not known. Both sides take the mean that training gives to
    forget examples as hard as this one, which leaves a retrained model at 0.5; the forget examples' own means would not. It weighs an
    example by how much training moves examples like it. What it proves, and what not, is as for the offline attack; the attack with each
    forget example's own means is `lira_member_rate`.
    """

    label: ClassVar[str] = "LiRA online AUC"
    source: ClassVar[str] = "Carlini et al., S&P 2022, algorithm 1 (online)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the mean under training is expected from the mean without it, in bins of the forget set, and not each example's own",
        "one variance for both hypotheses, pooled within examples, so that the score rises with the margin",
        "an unseen example is compared with as many base models as a forget example",
    )

    def attacked(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return the attack's scores of forget and of unseen examples."""
        return ratios.log_ratios(view)
