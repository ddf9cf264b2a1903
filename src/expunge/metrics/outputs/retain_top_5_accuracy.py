"""Whether the true class is among the first five, on the retain set."""

from typing import ClassVar

from expunge.metrics.metric import DAMAGE, Estimate, Metric, Target, Tier
from expunge.metrics.outputs.places import top_k_share
from expunge.metrics.view import View


class RetainTop5Accuracy(Metric):
    """Share of the retain set whose true class is among the five largest logits, in percent; not computed with five classes or fewer.

    Insensitive where the first place is nearly always right.
    """

    label: ClassVar[str] = "RA@5"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("retain",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 002 (top-5 accuracy)"
    above: ClassVar[str] = "the retain set is fitted more closely than by a retrained model"
    below: ClassVar[str] = DAMAGE

    def measure(self, view: View) -> Estimate:
        """Return the percentage.

        Raises:
            NotEnoughEvidence: five classes or fewer: every answer is among the first five.
        """
        return top_k_share(view, "retain", 5)
