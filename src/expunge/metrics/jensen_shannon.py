"""Distance of the predicted distributions."""

from typing import ClassVar

from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, average, check_aligned
from expunge.metrics.view import View


class JensenShannon(Metric):
    """Mean Jensen-Shannon divergence from the retrained model of the same seed on the forget set, in nats, from 0 to 0.693."""

    label: ClassVar[str] = "JS"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 0.693147)
    above: ClassVar[str] = "outputs on the forget set are farther from a retrained model's than two retrained models' are"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean over the forget set."""
        check_aligned(view, reference, "forget")
        return average(closeness.jensen_shannon(view.of("forget")[0], reference.of("forget")[0]))
