"""The attack of the NeurIPS 2023 challenge's starting kit."""

from typing import ClassVar

import numpy as np

from expunge.config import NonNegativeInt, hyper
from expunge.metrics import membership
from expunge.metrics.attacks import learned
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class LogisticMembership(Metric):
    """Accuracy of a logistic regression on the loss that tells forget from unseen examples, in percent; 50 when it cannot.

    It fits its own direction: an over-unlearned forget set, with losses above unseen ones, is told apart as well as a remembered one. Its
    good value is the retrained model's, which is 50 only if unseen data match the forget set. The loss AUC says more from the same numbers.
    """

    label: ClassVar[str] = "MIA logistic"
    unit: ClassVar[str] = "%"
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 100)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "NeurIPS 2023 machine unlearning challenge, starting kit (simple_mia)"
    deviations: ClassVar[tuple[str, ...]] = (
        "both groups are sorted before the published splits, so that the order of examples does not matter",
    )
    above: ClassVar[str] = "the losses of forgotten and unseen data can be told apart better than for a retrained model"
    below: ClassVar[str] = "the losses of forgotten and unseen data can be told apart worse than for a retrained model"

    draw_seed: NonNegativeInt = hyper(0, "seed of the sample that makes both groups equally large")

    def measure(self, view: View) -> Estimate:
        """Return the mean accuracy over 10 random splits; they share examples, so that it has no standard error.

        Raises:
            NotEnoughEvidence: fewer than 10 examples of a group.
        """
        n = min(view.size("forget"), view.size("unseen"))
        forget, unseen = (membership.draw(np.sort(view.loss(part)), n, self.draw_seed) for part in ("forget", "unseen"))
        return Estimate(100 * float(learned.balanced_accuracy(forget, unseen).mean()), None, n)
