"""Source 004's three scores of a model against a retrained one, as we reconstruct them."""

from typing import ClassVar

import numpy as np

from expunge.metrics.inside.alignment import Alignment
from expunge.metrics.inside.readings import names
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View
from expunge.representation.agreement import PARTS, Agreement, agreement

_OF = {"FA": "forget", "RA": "retain", "TFA": "test_forgotten", "TRA": "test"}


def accuracies(view: View) -> dict[str, float]:
    """Return accuracies as fractions under source 004's names: FA, RA, TFA, TRA."""
    return {name: float(view.correct(_OF[name]).mean()) for name in PARTS}


def logits_agreement(view: View, reference: View) -> float:
    """Return the agreement of the four accuracies, which needs no features."""
    return agreement(accuracies(view), accuracies(reference), 0.0, [0.0], [0.0]).logits


def agreement_of(view: View, reference: View) -> Agreement:
    """Return the three scores of two models that were looked into."""
    transfer, theirs = (np.asarray(model.inspected("transfer_features"), dtype=np.float64).tolist() for model in (view, reference))
    alignment = min(1.0, Alignment().compare(view, reference).value)
    return agreement(accuracies(view), accuracies(reference), alignment, transfer, theirs)


class Reconstructed(Metric):
    """One of the scores, from 0 to 1. OUR RECONSTRUCTION: the source names them, and their formulas were not available."""

    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test_forgotten", "test")
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    inspection: ClassVar[tuple[str, ...]] = (*names("forget", "retain"), "transfer_features")
    deviations: ClassVar[tuple[str, ...]] = ("the formula is a reconstruction", "unbiased CKA over forget and retain examples at once")

    def score(self, view: View, reference: View) -> float:
        """Return the score."""
        raise NotImplementedError

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the score; it has no standard error."""
        return Estimate(self.score(view, reference), None, min(view.size(part) for part in self.parts))
