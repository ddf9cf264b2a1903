"""Whether a forgotten class leaks through the class next to it."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier, average, check_aligned
from expunge.metrics.view import View
from expunge.representation import outputs


class NearestClassGap(Metric):
    """Share of unseen pictures of forgotten classes named as the class that the retrained model names most, minus its own share, in points.

    Below 0: a model that spreads the pictures, or still names their class. Above 0: it sends too many of them next door.
    """

    label: ClassVar[str] = "nearest class gap"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("test_forgotten",)
    scenarios: ClassVar[tuple[str, ...]] = ("class",)
    limits: ClassVar[tuple[float, float] | None] = (-100, 100)
    tier: ClassVar[Tier] = "standard"
    counts: ClassVar[bool] = True
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "after the neighbouring-class attack of arXiv 2506.20893"
    above: ClassVar[str] = "pictures of forgotten classes go to the nearest class more than for a retrained model"
    below: ClassVar[str] = "pictures of forgotten classes go to the nearest class less than for a retrained model"

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the signed difference in percentage points with its paired standard error, the class held fixed."""
        check_aligned(view, reference, "test_forgotten")
        nearest = outputs.redistribution(*(model.of("test_forgotten")[0] for model in (view, reference))).nearest_class
        ours, theirs = ((model.prediction("test_forgotten") == nearest).astype(np.float64) for model in (view, reference))
        return average(100 * (ours - theirs))
