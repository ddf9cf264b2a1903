"""Where unseen pictures of a forgotten class go."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier, check_aligned
from expunge.metrics.view import View
from expunge.representation import outputs


class ConfusionRedistribution(Metric):
    """Total variation between the classes predicted for unseen pictures of forgotten classes and those that the retrained model predicts.

    From 0 to 1. A model that only suppresses a label sends these pictures to its second choice, which need not be where a model that never
    knew the class sends them. Blind to which picture goes where; biased up for few pictures, for retrained models alike.
    """

    label: ClassVar[str] = "redistribution"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("test_forgotten",)
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    above: ClassVar[str] = "pictures of forgotten classes go to other classes than for a retrained model"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the distance; it has no standard error formula."""
        check_aligned(view, reference, "test_forgotten")
        found = outputs.redistribution(view.of("test_forgotten")[0], reference.of("test_forgotten")[0])
        return Estimate(found.prediction_distance, None, view.size("test_forgotten"))
