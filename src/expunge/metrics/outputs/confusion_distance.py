"""Whether the model confuses the same classes as a retrained one."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier, check_aligned
from expunge.metrics.view import View
from expunge.representation import outputs


class ConfusionDistance(Metric):
    """Frobenius distance of the test confusion matrices, rows of shares, from that of the retrained model of the same seed.

    From 0 to the root of twice the number of classes. Blind to who is confused, as long as as many are.
    """

    label: ClassVar[str] = "CM distance"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("test",)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 003 (CM score)"
    deviations: ClassVar[tuple[str, ...]] = (
        "without three mistakes: a matrix carried over between splits, training mode, + 1 in the sums",
    )
    above: ClassVar[str] = "confuses other classes than a retrained model, more than two retrained models differ"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the distance; it has no standard error."""
        check_aligned(view, reference, "test")
        return Estimate(outputs.confusion_distance(view.of("test")[0], *reference.of("test")), None, view.size("test"))
