"""Labels, read from frozen features."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LinearProbe(Metric):
    """Percentage of forgotten examples that a new linear head on the frozen features names right.

    For whole classes the head is fitted on retain examples and five forgotten ones of each class and asked about unseen ones; otherwise it
    is fitted on retain examples alone and asked about the forget set. Regularisation is chosen on validation examples. A head that was
    edited to hide what the encoder knows is replaced, so that an edit of the head alone is caught as the original is. The good value is
    the retrained models', not chance: features that never saw a class separate it to some degree.

    What it does not catch: knowledge that an encoder holds in a form that is not linear, and anything where retrained features separate the
    forgotten examples as well as the original's do.
    """

    label: ClassVar[str] = "linear probe"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "retain", "validation", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    counts: ClassVar[bool] = True
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("linear_probe", "linear_probe_size")
    source: ClassVar[str] = "Alain and Bengio, arXiv 1610.01644 (linear probes)"
    above: ClassVar[str] = "frozen features still tell the forgotten examples better than a retrained model's do"
    below: ClassVar[str] = "frozen features tell the forgotten examples worse than a retrained model's do (over-unlearned)"

    def measure(self, view: View) -> Estimate:
        """Return the accuracy of the fitted head."""
        accuracy, n = float(view.inspected("linear_probe")), int(view.inspected("linear_probe_size"))
        return Estimate(100 * accuracy, 100 * float(np.sqrt(accuracy * (1 - accuracy) / n)), n)
