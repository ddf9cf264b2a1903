"""How well the model predicts test labels, confidence included."""

from typing import ClassVar

from expunge.metrics.metric import DAMAGE, Estimate, Metric, Target, average
from expunge.metrics.view import View


class TestLoss(Metric):
    """Mean cross-entropy on the test set, in nats; for a class request without the forgotten classes.

    Moved by few confident mistakes; it shows damage that leaves every prediction as it was.
    """

    label: ClassVar[str] = "test loss"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.LOWER
    parts: ClassVar[tuple[str, ...]] = ("test",)
    tested: ClassVar[bool] = False
    above: ClassVar[str] = DAMAGE

    def measure(self, view: View) -> Estimate:
        """Return the mean over the test set."""
        return average(view.loss("test"))
