"""Membership by modified entropy."""

from typing import ClassVar

from expunge.metrics import roc
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View


class ModifiedEntropyAuc(Metric):
    """AUC of -modified entropy for the forget set against unseen data; above 0.5 the forget set looks like training data."""

    label: ClassVar[str] = "m-entropy AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    source: ClassVar[str] = "Song & Mittal, USENIX Security 2021"
    above: ClassVar[str] = "the forget set still looks like training data"
    below: ClassVar[str] = "the forget set looks less like training data than unseen data do (over-unlearned)"

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error."""
        value, error = roc.area(-view.modified_entropy("forget"), -view.modified_entropy("unseen"))
        return Estimate(value, error, min(view.size("forget"), view.size("unseen")))
