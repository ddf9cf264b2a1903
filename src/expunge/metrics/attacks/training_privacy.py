"""The second number of the published SVC attack: how well it tells kept training data from test data."""

from functools import partial
from typing import ClassVar

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.metrics import membership
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class TrainingPrivacy(Metric):
    """How well the SVC attack on confidence tells retain from test examples that it was not fitted on, in percent; 50 when it cannot.

    Mean of the two recalls. It is about the data that the model keeps, not about the forget set; the good value is the retrained model's.
    """

    label: ClassVar[str] = "MIA privacy"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("retain", "test")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Jia et al., Unlearn-Sparse, NeurIPS 2023 (SVC_MIA, training privacy)"
    deviations: ClassVar[tuple[str, ...]] = ("drawn halves in place of the first examples", "fitted on bins with weights")
    above: ClassVar[str] = "the retain set is memorised more than by a retrained model"
    below: ClassVar[str] = "the retain set is memorised less than by a retrained model"

    bins: PositiveInt = hyper(1024, "bins of the confidence on which the attack is fitted")
    draw_seed: NonNegativeInt = hyper(0, "seed of the halves; the same for all models that are compared")

    def measure(self, view: View) -> Estimate:
        """Return the mean of the two recalls; no standard error, for the attack that is fitted moves too."""
        attack = partial(membership.svc_membership_binned, bins=self.bins)
        value = membership.training_privacy(attack, view.probability("retain"), view.probability("test"), self.draw_seed)
        return Estimate(100 * value, None, min(view.size("retain"), view.size("test")))
