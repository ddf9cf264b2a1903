"""Normal clouds that overlap."""

import math

import torch
from torch import Tensor

from expunge.config import PositiveFloat, PositiveInt, hyper
from expunge.data.plane import PlaneDataset


class Blobs(PlaneDataset):
    """Normal clouds around a circle in the unit square, one a class. They overlap, so that whoever fits every point remembers noise."""

    classes: PositiveInt = hyper(3, "number of clouds", ge=2)
    spread: PositiveFloat = hyper(0.1, "standard deviation of a cloud, in a square of side 1")

    def class_names(self) -> tuple[str, ...]:
        """Return the numbers of the clouds."""
        return tuple(map(str, range(self.classes)))

    def place(self, y: Tensor, index: Tensor, purpose: str) -> Tensor:
        """Return points around their cloud's centre; see `PlaneDataset.place`."""
        angle = 2 * math.pi * y / self.classes + math.pi / 2
        center = 0.5 + 0.2 * torch.stack([angle.cos(), angle.sin()], dim=1)
        return center + self.spread * self.normal(purpose, index)
