"""How well the model generalises."""

from typing import ClassVar

from expunge.metrics.metric import DAMAGE, Estimate, Metric, Target, share
from expunge.metrics.view import View


class TestAccuracy(Metric):
    """Accuracy on the test set, in percent; for a class request without the forgotten classes."""

    label: ClassVar[str] = "TA"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("test",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "generalises better than a retrained model"
    below: ClassVar[str] = DAMAGE

    def measure(self, view: View) -> Estimate:
        """Return the percentage of the test set that is classified right."""
        return share(view.correct("test"))
