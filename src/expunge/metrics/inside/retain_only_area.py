"""Forget accuracy along training without the forget set."""

from typing import ClassVar

import numpy as np

from expunge.metrics.inside.readings import returned
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation.relearn import Curve, area_between


class RetainOnlyArea(Metric):
    """Mean forget accuracy over five epochs of training on retain examples alone, the start included.

    The difference of two models' values is the area between their curves. It sees both what was never lost and what comes back, so that
    the original itself lies above the retrained models wherever they know the forget set less than it does.

    What it does not catch: an edit of the head alone that imitates a retrained model on the retain set too, and often a wholly
    forgotten class, whose logit no retain example pulls up again.
    """

    label: ClassVar[str] = "retain-only area"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("retain_only", "retain_only_rows", "retain_only_finite")
    source: ClassVar[str] = "Siddiqui et al., arXiv 2505.22310; the area over the epochs is ours"
    above: ClassVar[str] = "with further training the forget set is known better than by a retrained model"
    below: ClassVar[str] = "with further training the forget set is known worse than by a retrained model (over-unlearned)"

    def measure(self, view: View) -> Estimate:
        """Return the trapezoidal mean of the curve.

        Raises:
            NotEnoughEvidence: the training diverged.
        """
        curve, size = returned(view)
        epochs = np.arange(len(curve))
        area = area_between(Curve(epochs, curve), Curve(epochs, np.zeros(len(curve))))
        return Estimate(100 * area, None, size)
