"""What the model still remembers of the data that it keeps."""

from typing import ClassVar

from expunge.metrics import membership
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class RetainLossAuc(Metric):
    """AUC of -loss for the retain set against test data: how much is memorised of what the model keeps.

    A method that lowers the forget set's AUC by forgetting everything lowers this one too. It says nothing about the forget set.
    """

    label: ClassVar[str] = "retain loss AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Yeom et al., CSF 2018"
    above: ClassVar[str] = "the retain set is memorised more than by a retrained model"
    below: ClassVar[str] = "the retain set is memorised less than by a retrained model"

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error."""
        value, error = membership.loss_area(view, "retain", "test")
        return Estimate(value, error, min(view.size("retain"), view.size("test")))
