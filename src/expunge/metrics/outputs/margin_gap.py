"""Too much or too little forgotten, with a sign."""

from typing import ClassVar

import numpy as np

from expunge.metrics.findings import TOO_LITTLE, TOO_MUCH
from expunge.metrics.metric import Estimate, Metric, Target, average, check_aligned
from expunge.metrics.view import View

CLIP = 50.0
"""Margins beyond this are as good as infinite: their probabilities are 0 or 1 to twenty digits."""


class MarginGap(Metric):
    """Mean true-class margin on the forget set minus that of the retrained model of the same seed, in nats of log-odds.

    Above 0 forgotten too little, below 0 too much. A mean: half of the forget set too high and half too low give 0.
    """

    label: ClassVar[str] = "margin gap"
    unit: ClassVar[str] = "nats"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    tested: ClassVar[bool] = False
    above: ClassVar[str] = TOO_LITTLE
    below: ClassVar[str] = TOO_MUCH

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean difference over the forget set; margins are clipped at 50."""
        check_aligned(view, reference, "forget")
        ours, theirs = (np.clip(model.margin("forget"), -CLIP, CLIP) for model in (view, reference))
        return average(ours - theirs)
