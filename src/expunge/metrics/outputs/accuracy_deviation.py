"""Accuracies relative to the retrained model's, in one sum."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.statistics import NotEnoughEvidence


class AccuracyDeviation(Metric):
    """Sum over forget, retain and test of |accuracy / the retrained model's - 1|; 0 when all are equal.

    Not computed where the retrained model's accuracy is 0, as on a forgotten class: nothing is relative to it. The signs are lost.
    """

    label: ClassVar[str] = "RetDev"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    aliases: ClassVar[tuple[str, ...]] = ("retdev",)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Cadet et al., Deep Unlearn, arXiv 2410.01276 (retention deviation, as we understand it)"
    above: ClassVar[str] = "accuracies differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the sum; it has no standard error.

        Raises:
            NotEnoughEvidence: the retrained model gets nothing right in a part.
        """
        ours, theirs = (np.array([model.correct(part).mean() for part in self.parts]) for model in (view, reference))
        if not theirs.all():
            raise NotEnoughEvidence(f"not measurable: the retrained model's accuracy on the {self.parts[int(np.argmin(theirs))]} set is 0")
        return Estimate(float(np.abs(ours / theirs - 1).sum()), None, view.size("forget"))
