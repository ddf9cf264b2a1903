"""Two half circles that reach into each other."""

import math

import torch
from torch import Tensor

from expunge.config import NonNegativeFloat, hyper
from expunge.data.plane import PlaneDataset


class Moons(PlaneDataset):
    """Points near two interleaving half circles in the unit square, one a class."""

    noise: NonNegativeFloat = hyper(0.035, "standard deviation around the half circles, in a square of side 1")

    def place(self, y: Tensor, index: Tensor, purpose: str) -> Tensor:
        """Return points of an upper and a lower half circle; see `PlaneDataset.place`."""
        angle, upper = math.pi * self.uniform(purpose, index), y == 0
        across = torch.where(upper, angle.cos(), 1 - angle.cos())
        up = torch.where(upper, angle.sin(), 0.5 - angle.sin())
        circle = torch.stack([0.375 + 0.25 * across, 0.4375 + 0.25 * up], dim=1)
        return circle + self.noise * self.normal(purpose, index)
