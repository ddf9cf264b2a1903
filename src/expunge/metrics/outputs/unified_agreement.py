"""Agreement with a retrained model at the outputs and in the features, in one number."""

from typing import ClassVar

from expunge.metrics.inside.readings import names
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.outputs.agreements import agreement_of
from expunge.metrics.view import View


class UnifiedAgreement(Metric):
    """Harmonic mean of the agreements with the retrained model at the outputs and in the features, from 0 to 1.

    OUR RECONSTRUCTION of source 004's H-LR: the source names the score and its formula was not available. Do not put it beside published
    numbers. Needs downstream sets.
    """

    label: ClassVar[str] = "H-LR (ours)"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test_forgotten", "test")
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    inspection: ClassVar[tuple[str, ...]] = (*names("forget", "retain"), "transfer_features")
    source: ClassVar[str] = "our reconstruction of Kim et al., arXiv 2503.06991 (H-LR)"
    deviations: ClassVar[tuple[str, ...]] = ("the formula is a reconstruction", "unbiased CKA over forget and retain examples at once")
    below: ClassVar[str] = "outputs and features agree less with a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean; it has no standard error."""
        return Estimate(agreement_of(view, reference).harmonic, None, min(view.size(part) for part in self.parts))
