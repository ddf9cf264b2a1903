"""How much more than a retrained model this one knows of the forget set."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, average, check_aligned
from expunge.metrics.view import View


class RelativeUnlearningAccuracy(Metric):
    """Forget accuracy minus that of the retrained model of the same seed, in points; above 0 forgotten too little, below 0 too much."""

    label: ClassVar[str] = "rUA"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    aliases: ClassVar[tuple[str, ...]] = ("rua",)
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    above: ClassVar[str] = "forgets too little"
    below: ClassVar[str] = "forgets too much"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the signed difference of the accuracies on the forget set, in percentage points."""
        check_aligned(view, reference, "forget")
        difference = view.correct("forget").astype(np.float64) - reference.correct("forget")
        return average(100 * difference)
