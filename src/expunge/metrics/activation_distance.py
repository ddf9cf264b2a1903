"""Distance of the predicted probabilities."""

from typing import ClassVar, Literal

from expunge.config import hyper
from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, average, check_aligned
from expunge.metrics.view import View


class ActivationDistance(Metric):
    """Mean distance of predicted probabilities from the retrained model of the same seed on the forget set."""

    label: ClassVar[str] = "act. dist."
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    above: ClassVar[str] = "probabilities on the forget set are farther from a retrained model's than two retrained models' are"

    norm: Literal["l2", "l1"] = hyper("l2", "l2 is at most 1.414 (Golatkar et al.), l1 at most 2 (Goel et al.)")

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean over the forget set."""
        check_aligned(view, reference, "forget")
        return average(closeness.activation_distance(view.of("forget")[0], reference.of("forget")[0], self.norm))
