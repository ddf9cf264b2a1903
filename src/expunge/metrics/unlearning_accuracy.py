"""How often the forget set is misclassified."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class UnlearningAccuracy(Metric):
    """Error on the forget set: 100 - accuracy, in percent. Some papers print the accuracy under the same name."""

    label: ClassVar[str] = "UA"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    source: ClassVar[str] = "Jia et al., NeurIPS 2023; Fan et al., SalUn, ICLR 2024 (UA)"
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "the forget set is classified worse than by a model that never saw it"
    below: ClassVar[str] = "the forget set is still classified better than by a model that never saw it"

    def measure(self, view: View) -> Estimate:
        """Return the percentage of the forget set that is classified wrong."""
        return share(~view.correct("forget"))
