"""Whether an attacker can tell the model's answers on the forget set from a retrained model's."""

from typing import ClassVar

from expunge.config import PositiveInt, hyper
from expunge.metrics.attacks.answers import answers, in_order, learned_area
from expunge.metrics.metric import Estimate, Metric, Target, Tier, check_aligned
from expunge.metrics.view import View


class OutputDistinguishability(Metric):
    """AUC of a learned attacker that tells this model's answers on the forget set from those of the retrained model of the same seed.

    On folds of examples that it was not fitted on. Two retrained models can be told apart too, by their overall confidence: their
    band is the good value. It compares distributions of answers, not answers to one example: a model can pass by giving the
    right answers to the wrong examples.
    """

    label: ClassVar[str] = "told from retrained"
    unit: ClassVar[str] = ""
    target: ClassVar[Target] = Target.ZERO_UP_TO_BAND
    parts: ClassVar[tuple[str, ...]] = ("forget",)
    limits: ClassVar[tuple[float, float] | None] = (0, 1)
    band_models: ClassVar[int | None] = 12
    tier: ClassVar[Tier] = "standard"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "source 003 (retrain-distinguishability)"
    deviations: ClassVar[tuple[str, ...]] = ("a logistic regression in place of a neural net; all folds and all examples count",)
    above: ClassVar[str] = "answers on the forget set can be told from a retrained model's better than two retrained models' can"

    most: PositiveInt = hyper(1000, "examples that are drawn at most; every pair of retrained models is attacked")

    def compare(self, view: View, reference: View) -> Estimate:
        """Return the mean AUC over 5 folds; both models' answers to an example are in the same fold.

        Raises:
            NotEnoughEvidence: fewer than 10 examples.
        """
        check_aligned(view, reference, "forget")
        key = answers(reference, "forget")
        return learned_area(*(in_order(answers(model, "forget"), key, self.most) for model in (view, reference)))
