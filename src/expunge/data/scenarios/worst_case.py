"""Forget what is hardest to forget."""

from typing import ClassVar, Literal

import numpy as np

from expunge.config import NonNegativeFloat, PositiveFloat, PositiveInt, hyper
from expunge.data.ranking import RankedScenario


class WorstCase(RankedScenario):
    """Forget the set on which a model stays most certain after unlearning: found by a search over sets, with an unlearning in each step.

    Every training example has a weight from 0 to 1, and the weights add up to the size of the set. A step unlearns with these
    weights, starting from an original each time, then moves the weights towards examples with a small loss. The largest weights win.
    The original is trained for the search alone; with ``model.weights`` it is the given model.

    Such a set is often one that a retrained model knows just as well, because others vouch for it: the gap to retraining is small
    then, although nothing seems forgotten.
    """

    aliases = ("worst-case",)
    source = "Fan et al., Challenging forgets, ECCV 2024, arXiv 2403.07362"
    deviations = (
        "Weights start equal. The code starts from a random set, which steps of 0.01 hardly leave.",
        "Losses for the weights are measured in evaluation mode and without augmentation.",
    )

    ranks: ClassVar[Literal["", "base_pool", "original"]] = "original"

    rounds: PositiveInt = hyper(3, "steps of the search; the paper takes 2 to 10")
    step: PositiveFloat = hyper(0.01, "learning rate of the weights")
    penalty: NonNegativeFloat = hyper(0.0, "factor of the sum of squared weights")
    epochs: PositiveInt = hyper(2, "epochs of the unlearning in each step")
    lr: PositiveFloat = hyper(1e-3, "size of the unlearning's steps, which follow the sign of the gradient")
    batch_size: PositiveInt = hyper(256, "examples a batch of the unlearning")

    def keys(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return minus the weight; equal weights by the loss after the last unlearning."""
        return -scores["weight"], scores["loss"]
