"""Two discs, far enough from each other that a straight line divides them."""

import math

import torch
from torch import Tensor

from expunge.config import PositiveFloat, hyper
from expunge.data.plane import PlaneDataset


class Discs(PlaneDataset):
    """Points that are uniform in two discs side by side in the unit square, one disc a class.

    Source: source 003's thought experiment, discs of radius 2 around (-5, 5) and (5, 5), scaled by 0.06.
    """

    source = "source 003 (README)"

    radius: PositiveFloat = hyper(0.12, "of each disc, in a square of side 1", le=0.5)
    distance: PositiveFloat = hyper(0.6, "between the centres", le=1)

    def place(self, y: Tensor, index: Tensor, purpose: str) -> Tensor:
        """Return points whose distance to the centre is the root of a uniform number; see `PlaneDataset.place`."""
        angle = 2 * math.pi * self.uniform(purpose, index)
        radius = self.radius * self.uniform(purpose, index, 1).sqrt()
        center = 0.5 + (y - 0.5) * self.distance
        return torch.stack([center + radius * angle.cos(), 0.5 + radius * angle.sin()], dim=1)
