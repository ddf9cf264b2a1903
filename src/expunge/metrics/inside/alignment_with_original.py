"""Likeness of features to the original's."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class AlignmentWithOriginal(Metric):
    """Unbiased CKA of the features of forget and retain examples with those of the original of the same seed; 1 where nothing moved.

    It catches the identity and an edit of the head alone, whose encoder is the original's bit for bit. What it raises in vain: nearly every
    method that starts from the original stays closer to it than a retrained model is, whether or not it has forgotten. So it is
    shown beside the band and does not count in the verdict.
    """

    label: ClassVar[str] = "CKA to original"
    target: ClassVar[Target] = Target.RETRAINED
    tested: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain")
    limits: ClassVar[tuple[float, float] | None] = (-1, 1)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("alignment_with_original", "rows_forget", "rows_retain")
    source: ClassVar[str] = "Kim et al., arXiv 2503.06991; Song et al., JMLR 2012 (unbiased HSIC)"
    above: ClassVar[str] = "features are more like the original's than a retrained model's are"
    below: ClassVar[str] = "features are less like the original's than a retrained model's are"

    def measure(self, view: View) -> Estimate:
        """Return CKA."""
        n = len(view.inspected("rows_forget")) + len(view.inspected("rows_retain"))
        return Estimate(float(view.inspected("alignment_with_original")), None, n)

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return the smallest spread of retrained models to believe."""
        return 1e-3
