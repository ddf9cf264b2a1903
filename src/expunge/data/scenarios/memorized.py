"""Forget what is memorised."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import PositiveInt, hyper
from expunge.data.ranking import RankedScenario, check_models

CENTER = {"low": 0.0, "mid": 0.5, "high": 1.0}
THIRDS = {"low": (-1 / 3, 1 / 3), "mid": (1 / 3, 2 / 3), "high": (2 / 3, np.inf)}
"""Scores of each level: from the first number to below the second."""


class Memorized(RankedScenario):
    """Forget training examples that models get right only because they were trained on them, or examples that need no training on them.

    The score of an example is the accuracy of models that were trained on it minus that of models that were not. The level ``high``
    takes scores near 1, ``mid`` near 0.5, ``low`` near 0. Models on random halves of the training set are trained for it; half of them
    select, and what the other half says about the chosen examples is in the record, because a high score is in part luck.
    """

    source = "Feldman, STOC 2020, arXiv 1906.05271; strata as in Zhao et al., RUM, NeurIPS 2024, arXiv 2406.01257"
    deviations = (
        "The level low takes scores near 0 and not the lowest ones: few models make scores below 0, and these are noise.",
        "A level is refused where it has too few examples. RUM takes the first 3,000 examples whatever their scores.",
        "Equal scores are ordered by the difference of the true class's mean probabilities.",
    )

    ranks: ClassVar[Literal["", "base_pool", "original"]] = "base_pool"
    prefix_field = "level"

    level: Literal["low", "mid", "high"] = hyper("high", "how much they are memorised")
    models: PositiveInt = hyper(16, "models on random halves, of which half select and half describe; 8, 12, 16, ...")

    def check(self, candidates: np.ndarray) -> None:
        """Refuse fields that do not fit; see `expunge.data.ranking.RankedScenario.check`."""
        super().check(candidates)
        check_models(self.models)

    def keys(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the distances to the level's center, of accuracies and then of probabilities."""
        return tuple(np.abs(scores[column] - CENTER[self.level]) for column in ("memorization", "soft_memorization"))

    def admits(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """Return which examples lie in the level's third, bool ``[n]``."""
        low, high = THIRDS[self.level]
        return (scores["memorization"] >= low) & (scores["memorization"] < high)
