"""Whether the true class is among the first five, on the forget set."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.outputs.places import top_k_share
from expunge.metrics.view import View


class ForgetTop5Accuracy(Metric):
    """Share of the forget set whose true class is among the five largest logits, in percent; not computed with five classes or fewer.

    A class can be gone from the first place and stay in second; the retrained model's value says where it belongs.
    """

    label: ClassVar[str] = "FA@5"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 002 (top-5 accuracy)"
    above: ClassVar[str] = "the forget set is still classified better than by a model that never saw it"
    below: ClassVar[str] = "the forget set is classified worse than by a model that never saw it"

    def measure(self, view: View) -> Estimate:
        """Return the percentage.

        Raises:
            NotEnoughEvidence: five classes or fewer: every answer is among the first five.
        """
        return top_k_share(view, "forget", 5)
