"""Exposed examples, at one false alarm in a hundred."""

from typing import ClassVar

import numpy as np

from expunge.metrics.attacks import ratios
from expunge.metrics.attacks.rates import ExposedShare
from expunge.metrics.view import View


class LiraTpr1(ExposedShare):
    """Share of the forget set that the offline likelihood-ratio attack finds at a false positive rate of 1 %.

    It sees a few exposed examples that an average hides; see `expunge.metrics.attacks.rates.ExposedShare`.
    """

    label: ClassVar[str] = "LiRA TPR@1 %"
    source: ClassVar[str] = "Carlini et al., S&P 2022"
    at: ClassVar[float] = 0.01

    def attacked(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return the attack's scores of forget and of unseen examples."""
        return ratios.standard_scores(view)
