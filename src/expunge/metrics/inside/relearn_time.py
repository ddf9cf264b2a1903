"""Steps until the forget set is known again."""

from typing import ClassVar

import numpy as np

from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class RelearnTime(Metric):
    """Logarithm (base 2) of 1 + steps of training on forget examples until 95 % of the original's forget accuracy is back.

    0 for a model that knows the forget set from the start; one more for every doubling. A time that the budget of 200 steps ended counts
    as the budget, a value that the true one is not below. For whole classes each step has retain examples too.

    What it raises in vain: for a whole class an untrained model, which has no other classes to unlearn first.

    What it does not catch: knowledge behind an edited head, which can be made as slow to relearn as its author likes, and may look
    like a retrained model's. Where every model needs the whole budget nothing is measured.
    """

    label: ClassVar[str] = "relearn time"
    unit: ClassVar[str] = "log2 steps"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, np.inf)
    tier: ClassVar[Tier] = "standard"
    inspection: ClassVar[tuple[str, ...]] = ("relearn_steps", "relearn_censored")
    source: ClassVar[str] = "Golatkar et al., CVPR 2020; Chundawat et al., arXiv 2201.05629 (relearn time)"
    deviations: ClassVar[tuple[str, ...]] = ("the logarithm of 1 + steps of SGD at 0.01, so that a model that needs none has a value",)
    above: ClassVar[str] = "the forget set is harder to learn again than for a retrained model (over-unlearned)"
    below: ClassVar[str] = "the forget set is learned again faster than by a retrained model"

    def measure(self, view: View) -> Estimate:
        """Return log2(1 + steps)."""
        return Estimate(float(np.log2(1 + int(view.inspected("relearn_steps")))), None, view.size("forget"))

    @classmethod
    def resolution(cls, n: int) -> float:
        """Return what one step changes near 10 steps: retrained models that agree on a count do not show that the next one will."""
        return float(np.log2(11 / 10))
