"""Relearn time over the retrained model's."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation import relearn


class AnamnesisIndex(Metric):
    """Logarithm (base 2) of the relearn time over that of the retrained model of the same seed; 0 is ideal, -1 half the time.

    One step is added to both times. A time that the budget ended counts as the budget: the value is then a bound, and 0 where both
    were ended so. It restates relearn time, and so does not count in the verdict; it misses what relearn time misses.
    """

    label: ClassVar[str] = "AIN (log2)"
    target: ClassVar[Target] = Target.RETRAINED
    tested: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("relearn_steps", "relearn_censored")
    source: ClassVar[str] = "Chundawat et al., Zero-Shot Machine Unlearning, arXiv 2201.05629 (AIN)"
    deviations: ClassVar[tuple[str, ...]] = ("the logarithm, with one step added to both times",)
    above: ClassVar[str] = "the forget set is harder to learn again than for a retrained model (over-unlearned)"
    below: ClassVar[str] = "the forget set is learned again faster than by a retrained model"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return log2((steps + 1) / (steps of the retrained model + 1))."""
        ratio = ratio_of(view, reference)
        return Estimate(float(np.log2(ratio.value)), None, view.size("forget"))

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return what one step changes near 10 steps."""
        return float(np.log2(11 / 10))


def ratio_of(view: View, reference: View) -> relearn.Ratio:
    """Return the index itself and whether it is exact or a bound; 1, at least and at most, where the budget ended both."""
    times = [
        relearn.RelearnTime(int(one.inspected("relearn_steps")), bool(one.inspected("relearn_censored")), float("nan"))
        for one in (view, reference)
    ]
    if times[0].censored and times[1].censored:
        return relearn.Ratio(1.0, "at_least")
    return relearn.anamnesis_index(*times)
