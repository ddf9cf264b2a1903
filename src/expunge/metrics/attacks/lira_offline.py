"""Membership by comparison with models that never saw the example."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks import ratios
from expunge.metrics.attacks.rates import ReferenceAttack
from expunge.metrics.view import View


class LiraOffline(ReferenceAttack):
    """AUC of the offline likelihood-ratio attack for the forget set against unseen data; above 0.5 the forget set was remembered.

    An example's score is its margin's standard score against base models that were not trained on it: difficulty is taken out, which
    makes the attack far stronger than the loss AUC where examples differ. A value inside the retrained band says that this attack, with
    this many base models, finds no trace on average; it says nothing about single examples or about stronger attacks. The retrained
    models' value is near 0.5 and not exactly there. For a class request base models without an example still know its class.
    """

    label: ClassVar[str] = "LiRA offline AUC"
    tested: ClassVar[bool] = False
    source: ClassVar[str] = "Carlini et al., S&P 2022, section IV-B (offline, one-sided)"
    deviations: ClassVar[tuple[str, ...]] = (
        "one-sided as in the paper; the code ranks by the two-sided density",
        "the variance is pooled within examples below 32 models without the example",
        "an unseen example is compared with as many base models as a forget example",
    )

    def attacked(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return the attack's scores of forget and of unseen examples."""
        return ratios.standard_scores(view)
