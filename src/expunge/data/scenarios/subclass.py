"""Forget a part of one class."""

import numpy as np

from expunge.config import Fraction, Integer, PositiveInt, Text, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Scenario, class_number, how_many, pick, unnamed


class Subclass(Scenario):
    """Forget some training examples of one class; the class itself stays, in training and in test.

    A smaller set of the same seed is part of the larger one.
    """

    kind = "subclass"
    prefix_field = "of_class"

    of_class: Integer | Text | None = hyper(None, "name or number of the class; one has to be given")
    fraction: Fraction | None = hyper(None, "share of the class; 0.5 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of examples, instead of a fraction")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices to forget; see `expunge.data.scenario.Scenario.choose`."""
        if self.of_class is None:
            raise unnamed(data, "forget.of_class", "subclass")
        label = class_number(data, self.of_class, "forget.of_class")
        members = candidates[data.labels.numpy()[candidates] == label]
        count = how_many(self.fraction, self.count, len(members), default=0.5)
        return pick(members, count, seed, "forget/subclass")
