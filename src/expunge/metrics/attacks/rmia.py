"""Membership by the robust ratio attack."""

from typing import ClassVar

from expunge.metrics import roc
from expunge.metrics.attacks import ratios
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class Rmia(Metric):
    """AUC of the robust ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    An example's score is its probability over the one that base models without it give. For one model the ROC of the pairwise attack is
    that of this ratio, whatever its threshold and population. Works from two base models on. What it proves, and what not, is as for
    `lira_offline`.
    """

    label: ClassVar[str] = "RMIA AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    source: ClassVar[str] = "Zarifzadeh, Liu & Shokri, ICML 2024 (offline)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the offline scale is chosen on the first base model, attacked by the others on the forget set; 0.3 with fewer than 3 models",
        "an unseen example is compared with as many base models as a forget example",
    )
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error, the base pool held fixed."""
        value, error = roc.area(*ratios.probability_ratios(view))
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))
