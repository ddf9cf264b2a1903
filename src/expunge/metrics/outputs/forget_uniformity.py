"""How close the model is to not answering at all."""

from typing import ClassVar

import numpy as np

from expunge.metrics import closeness
from expunge.metrics.metric import Estimate, Metric, Target, Tier, average
from expunge.metrics.view import View


class ForgetUniformity(Metric):
    """1 - Jensen-Shannon divergence (base 2) of answers on the forget set from the uniform distribution, from 0 to 1.

    ZRF with a uniform teacher in place of a randomly initialised net, of whose answers it is the limit for small initial logits. It
    measures randomness, not forgetting: a retrained model still answers sensibly, and its value, well below 1, is the good one.
    """

    label: ClassVar[str] = "uniformity"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "after Chundawat et al., Bad Teacher, AAAI 2023 (ZRF)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the teacher is the uniform distribution",
        "the published code's value is no Jensen-Shannon divergence and shrinks with the number of classes",
    )
    above: ClassVar[str] = "answers on the forget set are closer to guessing than a retrained model's"
    below: ClassVar[str] = "answers on the forget set are farther from guessing than a retrained model's"

    def measure(self, view: View) -> Estimate:
        """Return the mean over the forget set."""
        logits = view.of("forget")[0]
        return average(closeness.similarity(logits, np.zeros_like(logits)))
