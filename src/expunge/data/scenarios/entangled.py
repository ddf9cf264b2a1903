"""Forget what lies among the rest, or apart from it."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import hyper
from expunge.data.ranking import Level, RankedScenario


class Entangled(RankedScenario):
    """Forget a set that is mixed with the retained data in the features of a model, or one that lies apart.

    Examples are ordered by the distance of their features from the center of all features. Of 15 sets of neighbours in this order, from
    the innermost to the outermost, the one with the highest or lowest entanglement score is forgotten. Features are the inputs of the
    head of one original, which is trained for the ranking alone; with ``model.weights`` it is the given model. The scores of all 15 sets
    are in the record, beside those of random sets of the same size, which are mixed with the rest as closely as sets can be.
    """

    source = "Zhao et al., What makes unlearning hard and what to do about it (RUM), NeurIPS 2024, arXiv 2406.01257"
    deviations = ("The sets may overlap, so that they cover all distances at any size.",)

    ranks: ClassVar[Literal["", "base_pool", "original"]] = "original"
    prefix_field = "level"

    level: Level = hyper("high", "high for a set that is mixed with the rest, low for one that lies apart")

    def keys(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return how far each example's place in the order is from the middle of the chosen set."""
        return (scores["places"],)
