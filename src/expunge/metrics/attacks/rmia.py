"""Membership by the robust ratio attack."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks import ratios
from expunge.metrics.attacks.rates import ReferenceAttack
from expunge.metrics.view import View


class Rmia(ReferenceAttack):
    """AUC of the robust ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    An example's score is its probability over the one that base models without it give. For one model the ROC of the pairwise attack is
    that of this ratio, whatever its threshold and population. Works from two base models on. What it proves, and what not, is as for
    `lira_offline`.
    """

    label: ClassVar[str] = "RMIA AUC"
    source: ClassVar[str] = "Zarifzadeh, Liu & Shokri, ICML 2024 (offline)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the offline scale is chosen on the first base model, attacked by the others on the forget set; 0.3 with fewer than 3 models",
        "an unseen example is compared with as many base models as a forget example",
    )

    def attacked(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return the attack's scores of forget and of unseen examples."""
        return ratios.probability_ratios(view)
