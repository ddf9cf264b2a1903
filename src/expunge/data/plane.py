"""Points in the unit square, drawn from shapes: data that can be looked at whole."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from expunge.config import NonNegativeInt, PositiveInt, hyper
from expunge.data.dataset import Arrays, Data, Dataset, assemble
from expunge.engine import randomness


class PlaneDataset(Dataset):
    """Points of the unit square, as many of each class. Concrete ones say where the points of a class lie.

    Point k of the training part belongs to class k modulo the number of classes, and its place depends on ``draw`` and k alone: a larger
    set holds the smaller one.
    """

    names: ClassVar[tuple[str, ...]] = ("orange", "blue")

    per_class: PositiveInt = hyper(40, "training points of each class")
    test_per_class: PositiveInt = hyper(500, "test points of each class")
    draw: NonNegativeInt = hyper(0, "another number draws other points of the same shapes")

    def load(self, device: torch.device | str = "cpu") -> Data:
        """Return the points, float32 ``[n, 2]`` in [0, 1]; they need no file."""
        parts = [self._points(purpose, count) for purpose, count in (("train", self.per_class), ("test", self.test_per_class))]
        return assemble(self, Arrays(*parts[0], *parts[1]), self.class_names(), device)

    def class_names(self) -> tuple[str, ...]:
        """Return one name for each class."""
        return self.names

    def _points(self, purpose: str, each: int) -> tuple[Tensor, Tensor]:
        classes = len(self.class_names())
        index = torch.arange(each * classes)
        y = index % classes
        return self.place(y, index, f"{self.name}/{purpose}").clamp(0, 1).float(), y

    @abstractmethod
    def place(self, y: Tensor, index: Tensor, purpose: str) -> Tensor:
        """Return where points lie, float64 ``[n, 2]``.

        Args:
            y: their classes, int64 ``[n]``.
            index: their numbers, int64 ``[n]``, by which random numbers are keyed.
            purpose: what the random numbers are for.
        """

    def uniform(self, purpose: str, index: Tensor, number: int = 0) -> Tensor:
        """Return a random number in [0, 1) for each point; another ``number`` gives independent ones."""
        return randomness.uniform(self.draw, purpose, number, index)

    def normal(self, purpose: str, index: Tensor) -> Tensor:
        """Return two independent standard normal numbers for each point, ``[n, 2]``."""
        return torch.stack([randomness.normal(self.draw, f"{purpose}/noise", axis, index) for axis in range(2)], dim=1)
