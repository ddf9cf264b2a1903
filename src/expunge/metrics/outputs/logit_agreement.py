"""Agreement with a retrained model at the outputs, in one number."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.outputs.agreements import logits_agreement
from expunge.metrics.view import View


class LogitAgreement(Metric):
    """Product of 1 - |accuracy gap| to the retrained model over forget and retain images, of the training set and unseen; 0 to 1.

    OUR RECONSTRUCTION of source 004's AGL: the source names the score and its formula was not available. Do not put it beside published
    numbers. Accuracies only: it is passed by editing the head alone.
    """

    label: ClassVar[str] = "AGL (ours)"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test_forgotten", "test")
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "our reconstruction of Kim et al., arXiv 2503.06991 (AGL)"
    deviations: ClassVar[tuple[str, ...]] = ("the formula is a reconstruction",)
    below: ClassVar[str] = "accuracies differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the product; it has no standard error."""
        return Estimate(logits_agreement(view, reference), None, min(view.size(part) for part in self.parts))
