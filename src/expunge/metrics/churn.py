"""Changed predictions."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, check_aligned, share
from expunge.metrics.view import View


class Churn(Metric):
    """Percentage of test examples on which the prediction differs from the retrained model's of the same seed."""

    label: ClassVar[str] = "churn"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("test",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "test predictions differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the percentage of the test set on which the two predict different classes."""
        check_aligned(view, reference, "test")
        return share(view.prediction("test") != reference.prediction("test"))
