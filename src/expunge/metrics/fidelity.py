"""Agreement with the retrained model."""

from typing import ClassVar

from expunge.metrics.metric import Estimate, Metric, Target, check_aligned, share
from expunge.metrics.view import View


class Fidelity(Metric):
    """Agreement of predictions with the retrained model of the same seed on the forget set, in percent.

    Its ceiling is the agreement of two retrained models. Not a Frechet distance, though the source abbreviates it FID.
    """

    label: ClassVar[str] = "fidelity"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    below: ClassVar[str] = "answers on the forget set differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the percentage of the forget set on which both predict the same class."""
        check_aligned(view, reference, "forget")
        return share(view.prediction("forget") == reference.prediction("forget"))
