"""Divergence of the predicted distributions, in the direction that punishes what a model rules out."""

from typing import ClassVar

from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, Tier, average, check_aligned
from expunge.metrics.view import View


class RetrainedDivergence(Metric):
    """Mean KL(retrained || model) on the forget set, in nats, against the retrained model of the same seed.

    Large where the model is sure that a class is wrong which the retrained model finds likely, as after suppressing a label. Unbounded, so
    that few examples can make it; the Jensen-Shannon divergence beside it is bounded and symmetric.
    """

    label: ClassVar[str] = "KL"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    above: ClassVar[str] = "outputs on the forget set are farther from a retrained model's than two retrained models' are"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean over the forget set."""
        check_aligned(view, reference, "forget")
        return average(closeness.kullback_leibler(reference.of("forget")[0], view.of("forget")[0]))
