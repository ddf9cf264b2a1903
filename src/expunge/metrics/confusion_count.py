"""How often two classes are taken for each other."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View


class ConfusionCount(Metric):
    """Number of test pictures of either confused class that are taken for the other: two entries of the confusion matrix, added up.

    It is there for requests that forget swapped labels. The same count on the forgotten pictures is what the unlearning accuracy
    says: there a picture counts as right when it is taken for the other class.
    """

    source = "Goel et al., Towards adversarial evaluations for inexact machine unlearning, arXiv 2201.06640"

    label: ClassVar[str] = "confusion"
    target: ClassVar[Target] = Target.LOWER
    parts: ClassVar[tuple[str, ...]] = ("swapped",)
    limits: ClassVar[tuple[float, float] | None] = (0, np.inf)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "still confuses the two classes"

    def measure(self, view: View) -> Estimate:
        """Return the count, with the binomial standard error."""
        hits = view.correct("swapped")
        share = float(hits.mean())
        return Estimate(float(hits.sum()), float(np.sqrt(len(hits) * share * (1 - share))), len(hits))

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return 1: what one example changes."""
        return 1.0
