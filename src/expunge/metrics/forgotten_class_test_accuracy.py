"""Whether the concept of a forgotten class is gone, and not only its training images."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class ForgottenClassTestAccuracy(Metric):
    """Accuracy on test images of wholly forgotten classes, in percent. A retrained model has no way to name them."""

    label: ClassVar[str] = "TA forgotten"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("test_forgotten",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "still recognises unseen images of the forgotten classes"
    below: ClassVar[str] = "recognises fewer images of the forgotten classes than a retrained model"

    def measure(self, view: View) -> Estimate:
        """Return the percentage of these images that is classified right."""
        return share(view.correct("test_forgotten"))
