"""Answers around forgotten examples."""

from typing import ClassVar

import numpy as np

from expunge.errors import BadInput
from expunge.metrics.metric import Estimate, Metric, Target, Tier, average
from expunge.metrics.view import View


class NeighborhoodKnowledge(Metric):
    """Points by which a model is right more often than the retrained one of the same seed on small perturbations of forget examples.

    Both see the same perturbations, uniform within 0.03 of each pixel's value. Above the band knowledge is left around what was forgotten,
    below it the neighbourhood is damaged. It asks outputs only: an edit of the head alone that answers as a retrained model does passes.
    """

    label: ClassVar[str] = "neighbourhood"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (-100, 100)
    counts: ClassVar[bool] = True
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("neighborhood",)
    source: ClassVar[str] = "Hsu et al., Residual Knowledge, arXiv 2601.22359"
    deviations: ClassVar[tuple[str, ...]] = ("the signed gap of the two rates, not their ratio, which has no value where one is 0",)
    above: ClassVar[str] = "around the forgotten examples more is known than by a retrained model"
    below: ClassVar[str] = "around the forgotten examples less is known than by a retrained model (over-unlearned)"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean difference of the shares of perturbations that are classified right.

        Raises:
            BadInput: the two were asked about different examples.
        """
        ours, theirs = np.asarray(view.inspected("neighborhood")), np.asarray(reference.inspected("neighborhood"))
        if ours.shape != theirs.shape:
            found = f"the two models were asked about {len(ours)} and {len(theirs)} examples."
            raise BadInput("view.neighborhood", found, "Look into both with the same settings.")
        return average(100 * (ours - theirs))
