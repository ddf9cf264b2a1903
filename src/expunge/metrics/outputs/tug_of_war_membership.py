"""Forgetting by the membership attack against utility, in one product."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.svc_membership import SvcMembership
from expunge.metrics.view import View


class TugOfWarMembership(Metric):
    """ToW with the published membership attack's share in place of the forget accuracy, from 0 to 1; 1 when all equals the retrained model.

    Inherits the flaws of the SVC attack, and is blind to what single examples leak.
    """

    label: ClassVar[str] = "ToW-MIA"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Zhao et al., NeurIPS 2024 (ToW-MIA)"
    below: ClassVar[str] = "accuracies and membership differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the product; it has no standard error."""
        values = [_shares(model) for model in (view, reference)]
        return Estimate(float(np.prod(1 - np.abs(values[0] - values[1]))), None, view.size("forget"))


def _shares(view: View) -> np.ndarray:
    return np.array([SvcMembership().measure(view).value / 100, *(view.correct(part).mean() for part in ("retain", "test"))])
