"""Membership by a regression of what unseen examples of the same kind score."""

from typing import ClassVar

import numpy as np

from expunge.attacks.quantile import Regression
from expunge.config import hyper
from expunge.metrics import roc
from expunge.metrics.attacks import regression as attack
from expunge.metrics.attacks.rates import ReferenceAttack
from expunge.metrics.metric import Estimate
from expunge.metrics.view import View


class QuantileAttack(ReferenceAttack):
    """AUC of the regression attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    A normal law of the margin, given class and mean base-model margin, is fitted on this model's answers to non-members alone; the score
    is how far an example lies above it. Unlike the likelihood-ratio attacks it adapts to a model whose margins are all lower or
    higher than those of base models, as after label smoothing. What it proves, and what not, is as for `lira_offline`.
    """

    label: ClassVar[str] = "QMIA AUC"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Bertran et al., NeurIPS 2023 (Gaussian head)"
    deviations: ClassVar[tuple[str, ...]] = (
        "features are the class and the mean margin of base models without the example, in place of a network on the picture",
        "two folds: the unseen half that is judged is never fitted on",
    )

    regression: Regression = hyper("linear", "least squares with one variance, or boosting of mean and variance (seconds a model)")

    def measure(self, view: View) -> Estimate:
        """Return the mean AUC of both folds; the error is the mean of theirs, as if they agreed by necessity.

        Raises:
            NotEnoughEvidence: too few unseen examples.
        """
        areas = [roc.area(*scored) for scored in attack.folds(view, self.regression)]
        errors = [area.standard_error for area in areas]
        error = None if None in errors else float(np.mean([error for error in errors if error is not None]))
        return Estimate(float(np.mean([area.value for area in areas])), error, min(view.size("forget"), view.size("unseen") // 2))
