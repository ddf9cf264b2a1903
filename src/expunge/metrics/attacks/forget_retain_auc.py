"""Whether the forget set still looks like the data that the model keeps."""

from typing import ClassVar

from expunge.metrics import membership
from expunge.metrics.findings import MEMBER, TOO_MUCH
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class ForgetRetainAuc(Metric):
    """AUC of -loss for the forget set against the retain set: 0.5 when the two look alike, as before unlearning, and below after it.

    A model that memorises nothing has 0.5 as well: read it beside the retain set's AUC.
    """

    label: ClassVar[str] = "forget/retain AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Yeom et al., CSF 2018"
    above: ClassVar[str] = MEMBER
    below: ClassVar[str] = TOO_MUCH

    def measure(self, view: View) -> Estimate:
        """Return the AUC with DeLong's standard error."""
        value, error = membership.loss_area(view, "forget", "retain")
        return Estimate(value, error, min(view.size("forget"), view.size("retain")))
