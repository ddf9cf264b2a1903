"""Membership by an attacker that learns what gives members away."""

from typing import ClassVar

from expunge.config import PositiveInt, hyper
from expunge.metrics.attacks.answers import answers, in_order, learned_area
from expunge.metrics.metric import Estimate, Metric, Target, Tier
from expunge.metrics.view import View


class OutputMembership(Metric):
    """AUC of a learned attacker on whole answers, forget set against unseen data, on folds that it was not fitted on.

    It learns its own direction and sees the sorted probabilities beside loss, entropy and margin, so it finds an over-unlearned forget
    set as it finds a remembered one. 0.5 when it finds nothing; the good value is the retrained model's. It uses the very labels that an
    attacker would want to know, so a value above 0.5 shows a difference and not what a real attacker would achieve.
    """

    label: ClassVar[str] = "learned MIA AUC"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.RETRAINED
    parts: ClassVar[tuple[str, ...]] = ("forget", "unseen")
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 003 (attacker on loss and logits, 5 folds)"
    deviations: ClassVar[tuple[str, ...]] = (
        "a logistic regression in place of a neural net, without the gradient at the head's input; all folds and all examples count",
    )
    above: ClassVar[str] = "answers on forgotten and unseen data can be told apart better than for a retrained model"
    below: ClassVar[str] = "answers on forgotten and unseen data can be told apart worse than for a retrained model"

    most: PositiveInt = hyper(5000, "examples of each group that are drawn at most")

    def measure(self, view: View) -> Estimate:
        """Return the mean AUC over 5 folds.

        Raises:
            NotEnoughEvidence: fewer than 10 examples of a group.
        """
        groups = (answers(view, part) for part in ("forget", "unseen"))
        return learned_area(*(in_order(group, group, self.most) for group in groups))
