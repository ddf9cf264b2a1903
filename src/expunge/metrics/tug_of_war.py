"""Forgetting against utility, in one product."""

from typing import ClassVar

import numpy as np

from expunge.metrics import accuracy
from expunge.metrics.metric import Estimate, Metric, Target
from expunge.metrics.view import View


class TugOfWar(Metric):
    """Product over forget, retain and test of 1 - |difference of accuracies| to the retrained model, from 0 to 1."""

    label: ClassVar[str] = "ToW"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.HIGHER
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    source: ClassVar[str] = "Zhao et al., NeurIPS 2024 (ToW)"
    tested: ClassVar[bool] = False
    below: ClassVar[str] = "accuracies differ more from a retrained model's than two retrained models' do"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the product; it has no standard error."""
        shares = [{part: float(np.mean(model.correct(part))) for part in self.parts} for model in (view, reference)]
        value = accuracy.tug_of_war(*shares)
        return Estimate(value, None, view.size("forget"))
