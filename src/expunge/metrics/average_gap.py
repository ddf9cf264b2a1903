"""The published tables' single number."""

from typing import ClassVar

from expunge.metrics import accuracy
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.retain_accuracy import RetainAccuracy
from expunge.metrics.svc_membership import SvcMembership
from expunge.metrics.test_accuracy import TestAccuracy
from expunge.metrics.unlearning_accuracy import UnlearningAccuracy
from expunge.metrics.view import View


class AverageGap(Metric):
    """Mean absolute difference of UA, RA, TA and MIA from the retrained model of the same seed, in points."""

    label: ClassVar[str] = "avg. gap"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    source: ClassVar[str] = "Fan et al., SalUn, ICLR 2024 (Avg. Gap)"
    tested: ClassVar[bool] = False
    above: ClassVar[str] = "differs more from a retrained model in UA, RA, TA and MIA than retrained models do from each other"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean absolute gap; it has no standard error, for the four parts share examples and scales."""
        gap = accuracy.average_gap(published_numbers(view), published_numbers(reference))
        return Estimate(gap, None, view.size("forget"))


def published_numbers(view: View) -> dict[str, float]:
    """Return ``{"UA", "RA", "TA", "MIA"}`` of a model in percent, as the published tables print them."""
    return {
        "UA": UnlearningAccuracy().measure(view).value,
        "RA": RetainAccuracy().measure(view).value,
        "TA": TestAccuracy().measure(view).value,
        "MIA": SvcMembership().measure(view).value,
    }
