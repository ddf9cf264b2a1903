"""Membership by the likelihood ratio of models that were, and were not, trained on examples as hard as this one."""

from typing import ClassVar

from expunge.metrics import roc
from expunge.metrics.attacks import ratios
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LiraOnline(Metric):
    """AUC of the online likelihood-ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    No base model is trained on unseen examples, so their mean under training is not known. Both sides take the mean that training gives to
    forget examples as hard as this one, which leaves a retrained model at 0.5; the forget examples' own means would not. It weighs an
    example by how much training moves examples like it. What it proves, and what not, is as for the offline attack; the attack with each
    forget example's own means is `lira_member_rate`.
    """

    label: ClassVar[str] = "LiRA online AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    source: ClassVar[str] = "Carlini et al., S&P 2022, algorithm 1 (online)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the mean under training is expected from the mean without it, in bins of the forget set, and not each example's own",
        "one variance for both hypotheses, pooled within examples, so that the score rises with the margin",
        "an unseen example is compared with as many base models as a forget example",
    )
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error, the base pool held fixed."""
        value, error = roc.area(*ratios.log_ratios(view))
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))
