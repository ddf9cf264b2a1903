"""Membership by comparison with models that never saw the example."""

from typing import ClassVar

from expunge.metrics import roc
from expunge.metrics.attacks import ratios
from expunge.metrics.findings import MEMBER, OVER
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LiraOffline(Metric):
    """AUC of the offline likelihood-ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    An example's score is its margin's standard score against base models that were not trained on it: difficulty is taken out, which
    makes the attack far stronger than the loss AUC where examples differ. A value inside the retrained band says that this attack, with
    this many base models, finds no trace on average; it says nothing about single examples or about stronger attacks. The retrained
    models' value is near 0.5 and not exactly there. For a class request base models without an example still know its class.
    """

    label: ClassVar[str] = "LiRA offline AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    references: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Carlini et al., S&P 2022, section IV-B (offline, one-sided)"
    deviations: ClassVar[tuple[str, ...]] = (
        "one-sided as in the paper; the code ranks by the two-sided density",
        "the variance is pooled within examples below 32 models without the example",
        "an unseen example is compared with as many base models as a forget example",
    )
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = OVER

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error, the base pool held fixed."""
        value, error = roc.area(*ratios.standard_scores(view))
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))
