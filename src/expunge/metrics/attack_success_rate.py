"""Whether a backdoor still opens."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, share
from expunge.metrics.view import View


class AttackSuccessRate(Metric):
    """Share of test pictures with the trigger that are taken for its target class, in percent; pictures of that class are left out.

    It is there for requests that forget a backdoor. The clean accuracy beside it, ``SA`` in the papers, is the test accuracy.
    """

    source = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934: Trojan cleanse"
    deviations = ("pictures of the target class are left out; the code counts them as successes",)

    label: ClassVar[str] = "ASR"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.LOWER
    parts: ClassVar[tuple[str, ...]] = ("triggered",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "still answers to the trigger"

    def measure(self, view: View) -> Estimate:
        """Return the percentage of the pictures with the trigger that get the target class."""
        return share(view.correct("triggered"))
