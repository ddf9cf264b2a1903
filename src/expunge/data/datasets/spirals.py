"""Arms of a spiral, which only a net of some depth can part."""

import math

import torch
from torch import Tensor

from expunge.config import NonNegativeFloat, PositiveFloat, hyper
from expunge.data.plane import PlaneDataset


class Spirals(PlaneDataset):
    """Points near the two arms of a spiral in the unit square, one arm a class."""

    turns: PositiveFloat = hyper(1.25, "turns of each arm")
    noise: NonNegativeFloat = hyper(0.012, "standard deviation around the arms, in a square of side 1")

    def place(self, y: Tensor, index: Tensor, purpose: str) -> Tensor:
        """Return points of an arm, about equally dense along it; see `PlaneDataset.place`."""
        along = (0.04 + 0.96 * self.uniform(purpose, index)).sqrt()
        angle = 2 * math.pi * self.turns * along + math.pi * y
        arm = 0.5 + 0.42 * along[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return arm + self.noise * self.normal(purpose, index)
