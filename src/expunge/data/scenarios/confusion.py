"""Forget a confusion of two classes."""

import numpy as np

from expunge.config import Fraction, Integer, PositiveInt, Text, hyper
from expunge.data.dataset import Data
from expunge.data.scenario import Alteration, Scenario, class_number, how_many, pick
from expunge.errors import BadInput


class Confusion(Scenario):
    """Train with the labels of two classes swapped on some of their pictures, half from each, then forget these pictures.

    A model that has forgotten confuses the two classes no more than one that was trained without these pictures: the confusion
    count on test pictures of the two classes says whether it does.
    """

    source = "Goel et al., Towards adversarial evaluations for inexact machine unlearning, arXiv 2201.06640: interclass confusion"

    kind = "random"

    first: Integer | Text = hyper(0, "name or number of one class")
    second: Integer | Text = hyper(1, "name or number of the other class")
    fraction: Fraction | None = hyper(None, "share of the two classes' training pictures; 0.2 if no count is given either")
    count: PositiveInt | None = hyper(None, "number of pictures, even, instead of a fraction")

    def choose(self, data: Data, candidates: np.ndarray, seed: int) -> np.ndarray:
        """Return the indices whose labels are swapped; see `expunge.data.scenario.Scenario.choose`."""
        members = [candidates[data.labels.numpy()[candidates] == label] for label in self._classes(data)]
        half = self._half(members)
        return np.sort(np.concatenate([pick(part, half, seed, "forget/confusion") for part in members]))

    def alter(self, data: Data, chosen: np.ndarray, seed: int) -> Alteration:
        """Return each class's label for the other's pictures."""
        first, second = self._classes(data)
        return Alteration(chosen, np.where(data.labels.numpy()[chosen] == first, second, first), swapped=(first, second))

    def _classes(self, data: Data) -> tuple[int, int]:
        first, second = class_number(data, self.first, "forget.first"), class_number(data, self.second, "forget.second")
        if first == second:
            raise BadInput("forget.second", f"{data.class_names[first]} cannot be confused with itself.", "Name two classes.")
        return first, second

    def _half(self, members: list[np.ndarray]) -> int:
        if self.count is not None and self.count % 2:
            raise BadInput("forget.count", f"half of the pictures come from each class: expected an even number, got {self.count}.")
        half = how_many(self.fraction, self.count, sum(map(len, members)), default=0.2) // 2
        smallest = min(map(len, members))
        if half >= smallest:
            raise BadInput(
                "forget.count",
                f"{half} of each class are to be swapped, and one has {smallest} training pictures.",
                "Some must stay right.",
            )
        return half
