"""How well the model still does on what it keeps."""

from typing import ClassVar

from expunge.metrics.metric import DAMAGE, Estimate, Metric, Target, share
from expunge.metrics.view import View


class RetainAccuracy(Metric):
    """Accuracy on the retain set, in percent, without augmentation."""

    label: ClassVar[str] = "RA"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("retain",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    above: ClassVar[str] = "the retain set is fitted more closely than by a retrained model"
    below: ClassVar[str] = DAMAGE

    def measure(self, view: View) -> Estimate:
        """Return the percentage of the retain set that is classified right."""
        return share(view.correct("retain"))
