"""What the model answers on average to unseen pictures of a forgotten class."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier, check_aligned
from expunge.metrics.view import View
from expunge.representation import outputs


class ForgottenClassOutputDistance(Metric):
    """Total variation between the mean predicted distribution on unseen pictures of forgotten classes and the retrained model's.

    As the redistribution of predictions, with the probabilities of all classes: it sees a remainder too small to win. From 0 to 1.
    """

    label: ClassVar[str] = "mean output distance"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("test_forgotten",)
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    above: ClassVar[str] = "mean answers to pictures of forgotten classes differ from a retrained model's"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the distance; it has no standard error formula."""
        check_aligned(view, reference, "test_forgotten")
        found = outputs.redistribution(view.of("test_forgotten")[0], reference.of("test_forgotten")[0])
        return Estimate(found.probability_distance, None, view.size("test_forgotten"))
