"""Whether the model's confidence is honest."""

from typing import ClassVar

from expunge.config import PositiveInt, hyper
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View
from expunge.representation import outputs


class CalibrationError(Metric):
    """Expected calibration error on the test set: mean gap between confidence and accuracy over bins of confidence, in percent.

    A model whose outputs were flattened or sharpened to please a membership attack shows here. Biased up by few examples a bin: compare
    with the retrained models', which are asked about the same examples. It says nothing about what was forgotten.
    """

    label: ClassVar[str] = "ECE"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.LOWER
    parts: ClassVar[tuple[str, ...]] = ("test",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Guo et al., ICML 2017 (ECE)"
    above: ClassVar[str] = "its confidence on test data is less honest than a retrained model's"

    bins: PositiveInt = hyper(15, "bins of equal width")

    def measure(self, view: View) -> Estimate:
        """Return the error; it has no standard error formula."""
        found = outputs.calibration(*view.of("test"), self.bins)
        return Estimate(100 * found.expected_error, None, view.size("test"))
