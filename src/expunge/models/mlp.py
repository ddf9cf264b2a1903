"""Fully connected network."""

import math
from itertools import pairwise

from torch import Tensor, nn

from expunge.config import Fraction, PositiveInt, hyper
from expunge.models.model import Model


class Mlp(Model):
    """Fully connected network with ReLU, for pictures, tables or points."""

    hidden: tuple[PositiveInt, ...] = hyper((128, 64), "widths of the hidden layers; none of them gives a linear classifier")
    dropout: Fraction = hyper(0.0, "fraction of hidden units that are dropped in training")

    def build(self, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the network."""
        return MlpNet((math.prod(input_shape), *self.hidden), num_classes, self.dropout)


class MlpNet(nn.Module):
    """Flattened input, hidden layers with ReLU, linear head.

    Args:
        widths: number of inputs, then of units of each hidden layer.
        num_classes: number of logits.
        dropout: fraction of hidden units that are dropped in training.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int, dropout: float = 0.0):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for inputs ``[B, ...]``."""
        return self.head(self.layers(x.flatten(1)))
