"""Directions in the space of weights: the plane through three nets, and random ones that are scaled filter by filter."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.engine.parameters import flat, leaves
from expunge.engine.randomness import generator
from expunge.errors import BadInput


class Span(NamedTuple):
    """The plane through three points.

    Attributes:
        origin: the first point, float64 ``[P]``.
        axes: two orthonormal directions, ``[2, P]``.
        places: coordinates of the three points, ``[3, 2]``; distances are those of the points.
    """

    origin: Tensor
    axes: Tensor
    places: Tensor

    def at(self, places: Tensor) -> Tensor:
        """Return the points at coordinates ``[n, 2]``, float64 ``[n, P]``."""
        return self.origin + places.double() @ self.axes

    def seen(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinates of any points ``[n, P]`` on the plane, ``[n, 2]``, and how far they lie off it, ``[n]``."""
        apart = points - self.origin
        places = apart @ self.axes.T
        return places, (apart - places @ self.axes).norm(dim=1)


def span(points: Tensor) -> Span:
    """Return the plane through three points ``[3, P]``; the second lies on the first axis.

    Raises:
        BadInput: the points lie on one line, or two of them are the same.
    """
    points = points.double()
    first, second = points[1] - points[0], points[2] - points[0]
    along = first / first.norm()
    rest = second - (second @ along) * along
    if not first.norm() > 0 or not rest.norm() > 1e-9 * second.norm():
        raise BadInput("method", "the three nets lie on one line, so that no plane is theirs alone.", "Choose a method that moves weights.")
    axes = torch.stack([along, rest / rest.norm()])
    return Span(points[0], axes, (points - points[0]) @ axes.T)


def filter_normalized(model: nn.Module, seed: int, number: int) -> Tensor:
    """Return a random direction whose every filter is as long as the net's own, float64 ``[P]``; biases stay.

    A filter is what makes one output of a layer: a row of a matrix, or the whole kernel of one channel. Nets that compute the same with
    layers of other scales then give the same picture.

    Args:
        model: whose filters are measured.
        seed: of the draw.
        number: of the direction.

    Source: Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    draws = generator("cpu", seed, "direction", number)
    parts = {}
    for name, value in leaves(model).items():
        held = value.detach().double().cpu()
        drawn = torch.randn(held.shape, generator=draws, dtype=torch.float64)
        if held.dim() < 2:
            parts[name] = torch.zeros_like(held)
            continue
        lengths = held.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1).clamp_min(1e-12)
        parts[name] = drawn * lengths.view(-1, *[1] * (held.dim() - 1))
    return flat(parts)
