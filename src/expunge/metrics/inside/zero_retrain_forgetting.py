"""How close the model's answers are to those of a net that has learned nothing."""

from typing import ClassVar

import numpy as np

from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, Tier, average
from expunge.metrics.view import View


class ZeroRetrainForgetting(Metric):
    """ZRF: 1 - Jensen-Shannon divergence (base 2) on the forget set between the model and one with random weights, from 0 to 1.

    It measures randomness, not forgetting: a retrained model still answers sensibly, and its value, well below 1, is the good one. It also
    depends on what the random weights happen to say; all models of a comparison have the same random net.
    """

    label: ClassVar[str] = "ZRF"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    inspection: ClassVar[tuple[str, ...]] = ("untrained_logits", "rows_forget")
    source: ClassVar[str] = "Chundawat et al., Bad Teacher, AAAI 2023 (ZRF)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the published code's value is no Jensen-Shannon divergence and shrinks with the number of classes; this one is",
    )
    above: ClassVar[str] = "answers on the forget set are closer to those of a random net than a retrained model's"
    below: ClassVar[str] = "answers on the forget set are farther from those of a random net than a retrained model's"

    def measure(self, view: View) -> Estimate:
        """Return the mean over the forget examples that were read."""
        logits = view.of("forget")[0][np.asarray(view.inspected("rows_forget"))]
        return average(closeness.similarity(logits, np.asarray(view.inspected("untrained_logits"))))
